//! The LANCE server.

use clap::Parser;
use lance_actors::node::Node;
use lance_actors::{options, server, telemetry};
use lance_bin::server_args::ServerCli;
use lance_config::LoadRequest;
use lance_config::model::Config;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: u8 = 2;
/// How long the collector may take for what is left at the end; one that does not answer is not waited for.
const LAST_TRACES: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments = ServerCli::parse();
    let request = LoadRequest::of_this_process(arguments.config, arguments.sets);
    let loaded = match lance_config::load(&request) {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in &problems {
                eprintln!("lance: {problem}");
            }
            return ExitCode::from(USAGE);
        }
    };
    for warning in &loaded.warnings {
        eprintln!("lance: warning: {warning}");
    }
    for warning in lance_config::machine::warnings(&loaded.config, Path::new("/sys"), cfg!(feature = "numa")) {
        eprintln!("lance: warning: {warning}");
    }
    if arguments.check_config {
        print!("{}", loaded.to_toml());
        return ExitCode::SUCCESS;
    }
    if arguments.print_topology {
        print!("{}", lance_actors::numa::print::describe(&loaded.config));
        return ExitCode::SUCCESS;
    }
    let (traces, passed_over) =
        telemetry::plan(&options::trace_options(&loaded.config, |key| loaded.origins.contains_key(key)), &|name| {
            std::env::var(name).ok()
        });
    for variable in &passed_over {
        eprintln!("lance: warning: {variable}");
    }
    let tracer = match traces.as_ref().map(telemetry::export_node).transpose() {
        Ok(tracer) => tracer,
        Err(error) => {
            eprintln!("lance: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let config = loaded.config;
    let log_level = match telemetry::start(&options::telemetry_options(&config)) {
        Ok(log_level) => log_level,
        Err(error) => {
            eprintln!("lance: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let code = server::run(&config, Some(log_level), |node| welcome(&config, node));
    if let Some(tracer) = tracer {
        tracer.finish(LAST_TRACES);
    }
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn welcome(config: &Config, node: &Node) {
    let mut server = match node.address.to_string() {
        address if address == "127.0.0.1:1992" => String::new(),
        address => format!(" --server {address}"),
    };
    if config.tls.enabled {
        server.push_str(" --tls-ca FILE");
    }
    if config.auth.enabled {
        server.push_str(" --token-file FILE");
    }
    println!(
        "LANCE {version} serves.\n\
         \n  clients     {address}\n  admin HTTP  {scheme}://{admin}\n  console     {scheme}://{admin}/\n  data        {data}\n  disk        {backend}\n\
         \nType next, in another terminal:\n\
         \n  lnc produce{server} --topic events --data '{{\"event\": \"click\"}}'\
         \n  lnc consume{server} --topic events --offset earliest -e\
         \n  curl {scheme}://{admin}/v1/actors\n\
         \nCtrl-C drains and stops.",
        version = env!("CARGO_PKG_VERSION"),
        address = node.address,
        scheme = if config.tls.enabled { "https" } else { "http" },
        admin = node.admin_address,
        data = config.node.data_dir.display(),
        backend = node.backend,
    );
}
