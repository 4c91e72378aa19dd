//! The program `kms`: keys of encrypted Ceph OSDs from the command line.
//!
//! `main` hardens the process, reads command line and environment, and hands over to the subcommand.
//! Standard output is data and nothing else; logs and errors go to standard error.

mod canary;
mod cli;
mod cmd;
mod context;
mod environment;
mod exit;
mod hygiene;
mod input;
#[cfg(feature = "k8s-secret")]
mod kubernetes;
mod logging;
mod luks;
mod output;
#[cfg(feature = "k8s-secret")]
mod rook;
mod secret_file;

#[cfg(test)]
mod json_docs;
#[cfg(test)]
mod osd_host;

use std::process::ExitCode;

use clap::Parser;

use crate::{cli::Cli, environment::Environment, exit::Exit, output::Output};

/// Wipes all memory that is freed: parsers, HTTP and TLS copy what passes through them, and do not wipe it.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    hygiene::harden();
    let environment = Environment::read();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed stream is no reason to fail: whoever closed it does not want to read.
            let _ignored = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let format = cli.global.output;
    logging::init(&cli.global, &environment);
    let mut output = Output::new(format);
    match cmd::run(cli, &environment, &mut output).and_then(|exit| output.finish().map(|()| exit)) {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::report(&error, format);
            Exit::of(&error).into()
        }
    }
}
