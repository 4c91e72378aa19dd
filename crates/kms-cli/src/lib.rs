//! The program `kms`, which manages the encryption keys of Ceph OSDs from the command line.
//!
//! The binary is one call of [`main_with`]. A downstream crate builds a `kms` with its own provider in the same way: it
//! passes a [`Registry`] that has the provider.
//! Standard output has the data that a command prints and nothing else; logs and errors go to standard error.

mod args;
mod cli;
mod cmd;
mod completion;
mod environment;
mod exit;
mod hygiene;
mod input;
mod invocation;
mod job_report;
mod kubernetes;
mod lazy;
mod logging;
mod output;
mod output_file;
mod progress;
mod requests;
mod rook;
mod settings;
mod steps;
mod target;
mod terminal;
mod time;

#[cfg(test)]
#[path = "../tests/unit/json_docs.rs"]
mod json_docs;
#[cfg(test)]
#[path = "../tests/unit/json_schema.rs"]
mod json_schema;
#[cfg(test)]
#[path = "../tests/unit/osd_host.rs"]
mod osd_host;

use std::{path::Path, process::ExitCode, sync::Arc};

use kms_core::{Error, ErrorKind, Result, Trace, trace};
use kms_dispatch::Registry;
use kms_rotation::{Options, Timer};

pub use crate::exit::Exit;
use crate::{cli::Cli, environment::Environment, invocation::Invocation, output::Output};

/// Runs `kms` with the command line and the environment of this process, and returns its exit code.
///
/// Hardens the process first: core dumps are off and other processes cannot read its memory. Parsers, HTTP and TLS copy
/// what passes through them, so a program that calls this sets a global allocator that wipes all memory that is freed.
///
/// `registry` has further providers, in addition to those of this workspace.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     kms_cli::main_with(kms_dispatch::Registry::new())
/// }
/// ```
pub fn main_with(registry: Registry) -> ExitCode {
    main_with_options(registry, Options::default())
}

/// Runs `kms` as [`main_with`] does, with another timer for the pauses of rotations.
///
/// It is for tests, which would wait for each grace period otherwise. A timer that is faster than real time ends grace
/// periods early, so a program for hosts of OSDs must not use one.
pub fn main_with_timer(registry: Registry, timer: Arc<dyn Timer>) -> ExitCode {
    main_with_options(registry, Options::default().with_timer(timer))
}

fn main_with_options(registry: Registry, rotation: Options) -> ExitCode {
    hygiene::harden();
    let environment = Environment::read();
    if environment.get(completion::VARIABLE).is_some() {
        return completion::answer();
    }
    let line: Vec<_> = std::env::args_os().collect();
    let cli = match Cli::parse_line(&line) {
        Ok(cli) => cli,
        Err(error) => {
            // If the stream is closed, no reader wants the message.
            let _ignored = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let (mut global, command) = cli.into_parts();
    global.set_environment(&environment);
    let (format, quiet) = (global.output, global.quiet);
    output::set_color(global.color);
    let requests = logging::init(&global, &environment);
    let mut output = Output::new(format, quiet);
    let mut invocation = Invocation { global, environment: &environment, registry, rotation };
    let work = async {
        if !command.finds_cluster() {
            invocation.find_cluster().await?;
        }
        cli::run(command, &invocation, &mut output).await
    };
    // A request tells the server which program has asked for this run, if that program says so.
    let ended = match environment.get(trace::VARIABLE).and_then(Trace::parse) {
        Some(trace) => block_on(trace.run(work)),
        None => block_on(work),
    };
    let ended = ended.and_then(|exit| exit).and_then(|exit| output.finish().map(|()| exit));
    if let Some(file) = environment.get(job_report::FILE) {
        job_report::write(Path::new(file), &requests, ended.as_ref().err());
    }
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::report(&error, format);
            Exit::of(&error).into()
        }
    }
}

/// The definition of the command line. The documentation is generated from it.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs a command on this thread. A second thread costs more than it saves in a program that runs for a few
/// milliseconds.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|cause| {
        Error::new(ErrorKind::Unexpected, "the system refused what asynchronous work needs").source(cause)
    })?;
    Ok(runtime.block_on(work))
}
