//! Where results go: standard output as text or JSON, or a file.

use crate::cli::args::OutputFormat;
use crate::cli::failure::Failure;
use crate::cli::output::Out;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

/// The value of `--output`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputTo {
    /// To standard output.
    Stdout(OutputFormat),
    /// To a file: JSON when its name ends in `.json`, else text.
    File(PathBuf),
}

impl FromStr for OutputTo {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        match given {
            "text" | "-" => Ok(Self::Stdout(OutputFormat::Text)),
            "json" => Ok(Self::Stdout(OutputFormat::Json)),
            // A word without either is a misspelt format rather than a file.
            name if name.contains(['.', '/']) => Ok(Self::File(name.into())),
            _ => Err("expected text, json, -, or a file name with a dot or a slash".to_owned()),
        }
    }
}

impl OutputTo {
    /// How results are written there.
    pub fn format(&self) -> OutputFormat {
        match self {
            Self::Stdout(format) => *format,
            Self::File(path) if path.extension().is_some_and(|extension| extension == "json") => OutputFormat::Json,
            Self::File(_) => OutputFormat::Text,
        }
    }

    /// Fails at once where a result could not be written after a long run; an existing file stays as it is.
    pub fn check(&self) -> Result<(), Failure> {
        let Self::File(path) = self else { return Ok(()) };
        let opened = fs::OpenOptions::new().append(true).create(true).open(path);
        opened.map(|_| ()).map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
    }

    /// Writes a result.
    pub fn write(&self, text: &str) -> Result<(), Failure> {
        match self {
            Self::Stdout(_) => Out::stdout().line(text),
            Self::File(path) => fs::write(path, format!("{}\n", text.trim_end()))
                .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_dashes_and_files_are_told_apart() {
        assert_eq!("-".parse(), Ok(OutputTo::Stdout(OutputFormat::Text)));
        assert_eq!("json".parse(), Ok(OutputTo::Stdout(OutputFormat::Json)));
        assert_eq!("docs/out.md".parse(), Ok(OutputTo::File("docs/out.md".into())));
        assert_eq!(OutputTo::File("a.json".into()).format(), OutputFormat::Json);
        assert_eq!(OutputTo::File("a.md".into()).format(), OutputFormat::Text);
        assert!("jsn".parse::<OutputTo>().is_err());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_found_before_the_run() {
        assert!(OutputTo::File("/nowhere/at/all.md".into()).check().is_err());
    }
}
