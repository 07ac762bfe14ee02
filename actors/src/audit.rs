//! The audit log: one line for each action of an administrator, each denial and each login, under the target `audit`.

use crate::network::session::access::AuditLine;

/// Writes a line.
pub fn audit(line: &AuditLine) {
    let AuditLine { principal, action, outcome } = line;
    tracing::info!(target: "audit", %principal, %action, %outcome, "audit");
}
