//! `lnc backup` and `lnc restore`: a cluster's records and metadata in a folder, and back.
//!
//! What the folder looks like and what is promised about it is in `docs/Backup.md`.

mod args;
mod create;
mod error;
mod files;
mod manifest;
mod restore;
mod verify;

pub use args::{BackupArgs, BackupCommand, RestoreArgs};
pub use error::BackupError;

use super::args::{Common, OutputFormat};
use super::failure::Failure;
use super::output::Out;
use serde_json::json;
use std::path::Path;

/// Runs `lnc backup verify`; needs no server.
pub fn run_verify(dir: &Path, output: OutputFormat) -> Result<(), Failure> {
    let verified = verify::verify(dir).map_err(|error| named(dir, &error))?;
    let mut out = Out::stdout();
    let (files, bytes, records) = (verified.files, verified.bytes, verified.records);
    if output == OutputFormat::Json {
        return out.json(&json!({ "sound": true, "files": files, "bytes": bytes, "records": records }));
    }
    out.line(&format!("sound: {files} files, {bytes} bytes, {records} records"))
}

/// Runs `lnc backup --to DIR`.
pub async fn run_backup(args: &BackupArgs, common: &Common) -> Result<(), Failure> {
    let Some(dir) = &args.to else {
        return Err(Failure::usage("where to? give --to DIR").with_hint("or check a backup: lnc backup verify DIR"));
    };
    create::run(dir, args, common).await
}

/// Runs `lnc restore --from DIR`.
pub async fn run_restore(args: &RestoreArgs, common: &Common) -> Result<(), Failure> {
    restore::run(args, common).await
}

fn named(dir: &Path, error: &BackupError) -> Failure {
    let failure = Failure::failed(format!("the backup in {} cannot be used: {error}", dir.display()));
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}
