//! `lnc user` and `lnc acl`. Secrets come from standard input or are made here; of tokens and passwords only what they
//! are checked by leaves this process.

use super::args::{Common, OutputFormat};
use super::failure::Failure;
use super::output::Out;
use super::secret_args::{AclCommand, RuleArgs, UserCommand};
use super::session;
use lance_client::rules::{AclRule, Credentials, ResourceKind, token_hash};
use lance_client::{ClientError, scram};
use serde_json::json;
use std::io::Read as _;

/// Fewest bytes of a token or password somebody chose.
const MIN_SECRET_BYTES: usize = 16;
const MIN_PASSWORD_BYTES: usize = 8;
const MAX_SECRET_BYTES: u64 = 4096;

/// Runs a command on users.
pub async fn run_user(command: &UserCommand, common: &Common) -> Result<(), Failure> {
    // What comes from standard input is checked before anything is asked of a server.
    let (credentials, token) = credentials(command)?;
    let client = session::connect(common).await?;
    let admin = client.admin();
    let mut out = Out::stdout();
    let json = common.output == OutputFormat::Json;
    let failed = |what: String| move |error: ClientError| Failure::of(what, &error);
    let (name, done) = match command {
        UserCommand::List => {
            let users = admin.users().await.map_err(failed("cannot list users".to_owned()))?;
            return list_users(&users, &mut out, json);
        }
        UserCommand::Add { name, .. } => {
            admin.add_user(name, credentials).await.map_err(failed(format!("cannot add user '{name}'")))?;
            (name, "added")
        }
        UserCommand::Remove { name } => {
            admin.remove_user(name).await.map_err(failed(format!("cannot remove user '{name}'")))?;
            (name, "removed")
        }
        UserCommand::SetToken { name, .. } | UserCommand::SetPassword { name } => {
            let set = admin.set_credentials(name, credentials).await;
            set.map_err(failed(format!("cannot change user '{name}'")))?;
            (name, "changed")
        }
    };
    if json {
        return out.json(&json!({ "user": name, "done": done, "token": token }));
    }
    out.line(&format!("{done} user {name}"))?;
    match token {
        Some(token) => out.line(&format!("token {token}\n(it is shown this once)")),
        None => Ok(()),
    }
}

/// The credentials that a command sets, and the token that was made for it.
fn credentials(command: &UserCommand) -> Result<(Credentials, Option<String>), Failure> {
    let by_token = |token: &str| Credentials { token_hash: Some(token_hash(token)), scram: None };
    match command {
        UserCommand::Add { password_stdin: true, .. } | UserCommand::SetPassword { .. } => {
            let password = from_stdin("password", MIN_PASSWORD_BYTES)?;
            let verifier = scram::verifier(&password, rand::random(), scram::DEFAULT_ITERATIONS);
            let verifier = verifier.map_err(|error| Failure::usage(error.to_string()))?;
            Ok((Credentials { token_hash: None, scram: Some(verifier) }, None))
        }
        UserCommand::SetToken { token_stdin: true, .. } => {
            Ok((by_token(&from_stdin("token", MIN_SECRET_BYTES)?), None))
        }
        UserCommand::Add { no_token: false, .. } | UserCommand::SetToken { .. } => {
            let token: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
            Ok((by_token(&token), Some(token)))
        }
        UserCommand::Add { .. } | UserCommand::Remove { .. } | UserCommand::List => Ok((Credentials::default(), None)),
    }
}

fn from_stdin(what: &str, min_bytes: usize) -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_SECRET_BYTES).read_to_string(&mut text);
    read.map_err(|error| Failure::usage(format!("no {what} on standard input: {error}")))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.len() < min_bytes || secret.contains('\n') {
        return Err(Failure::usage(format!("a {what} is one line of at least {min_bytes} bytes on standard input")));
    }
    Ok(secret.to_owned())
}

fn list_users(
    users: &[lance_client::wire::security::UserDescription],
    out: &mut Out,
    json: bool,
) -> Result<(), Failure> {
    if !json {
        out.line(&format!("{:<32} {:<6} {:<8}", "USER", "TOKEN", "PASSWORD"))?;
    }
    let word = |has: bool| if has { "yes" } else { "no" };
    for user in users {
        if json {
            let (token, password) = (user.has_token, user.has_password);
            out.json(&json!({ "user": user.name, "has_token": token, "has_password": password }))?;
        } else {
            out.line(&format!("{:<32} {:<6} {:<8}", user.name, word(user.has_token), word(user.has_password)))?;
        }
    }
    Ok(())
}

/// Runs a command on rules.
pub async fn run_acl(command: &AclCommand, common: &Common) -> Result<(), Failure> {
    let client = session::connect(common).await?;
    let admin = client.admin();
    let mut out = Out::stdout();
    let json = common.output == OutputFormat::Json;
    match command {
        AclCommand::Add(args) => {
            let added = admin.add_rule(rule(args)).await;
            added.map_err(|error| Failure::of("cannot add the rule", &error))?;
            show_rule(&rule(args), "added ", &mut out, json)
        }
        AclCommand::Remove(args) => {
            let removed = admin.remove_rule(rule(args)).await;
            removed.map_err(|error| Failure::of("cannot remove the rule", &error).with_hint("see `lnc acl list`"))?;
            show_rule(&rule(args), "removed ", &mut out, json)
        }
        AclCommand::List => {
            let rules = admin.rules().await.map_err(|error| Failure::of("cannot list rules", &error))?;
            rules.iter().try_for_each(|rule| show_rule(rule, "", &mut out, json))
        }
    }
}

fn rule(args: &RuleArgs) -> AclRule {
    let (kind, name) = match (&args.topic, &args.group) {
        (Some(topic), _) => (ResourceKind::Topic, topic.clone()),
        (None, Some(group)) => (ResourceKind::Group, group.clone()),
        (None, None) => (ResourceKind::Cluster, String::new()),
    };
    let operation = args.allow.or(args.deny).and_then(super::secret_args::OperationArg::operation);
    AclRule {
        principal: args.principal.clone(),
        kind,
        name,
        prefix: args.prefix,
        operation,
        allow: args.allow.is_some(),
    }
}

fn show_rule(rule: &AclRule, done: &str, out: &mut Out, json: bool) -> Result<(), Failure> {
    let operation = rule.operation.map_or("all", |operation| operation.name());
    let (decision, kind) = (if rule.allow { "allow" } else { "deny" }, rule.kind.name());
    if json {
        let (principal, name, prefix) = (&rule.principal, &rule.name, rule.prefix);
        return out.json(&json!({
            "principal": principal, "decision": decision, "operation": operation,
            "resource": kind, "name": name, "prefix": prefix,
        }));
    }
    let star = if rule.prefix { "*" } else { "" };
    out.line(&format!("{done}{:<24} {decision:<6} {operation:<9} {kind} {}{star}", rule.principal, rule.name))
}
