//! Tasks for developers: tests with real servers, checks, and a demonstration. `cargo xtask --help` lists them.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod bench;
mod ci;
mod codegen;
mod crash;
mod demo;
mod deny;
mod dist;
mod features;
mod image;
mod it;
mod live;
mod manifests;
mod provision;
mod run;
mod servers;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use xshell::Shell;

/// Builds, tests, servers and checks of this workspace
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    Bench(bench::Bench),
    Ci(ci::Ci),
    Codegen(codegen::Codegen),
    Crash(crash::Crash),
    Demo(demo::Demo),
    Deny(deny::Deny),
    Dist(dist::Dist),
    Features(features::Features),
    Image(image::Image),
    It(it::It),
    Provision(provision::Provision),
    Servers(servers::Servers),
    Test(test::Test),
    Tidy(tidy::Tidy),
}

fn main() -> ExitCode {
    let Err(error) = run(Task::parse()) else { return ExitCode::SUCCESS };
    eprintln!("error: {error}");
    // Prints the causes without a backtrace: `RUST_BACKTRACE` is set for the tests, not for this program.
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
    ExitCode::FAILURE
}

fn run(task: Task) -> Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(run::root());
    match task {
        Task::Bench(task) => task.run(&sh),
        Task::Ci(task) => task.run(&sh),
        Task::Codegen(task) => task.run(&sh),
        Task::Crash(task) => task.run(&sh),
        Task::Demo(task) => task.run(&sh),
        Task::Deny(task) => task.run(&sh),
        Task::Dist(task) => task.run(&sh),
        Task::Features(task) => task.run(&sh),
        Task::Image(task) => task.run(&sh),
        Task::It(task) => task.run(&sh),
        Task::Provision(task) => task.run(&sh),
        Task::Servers(task) => task.run(&sh),
        Task::Test(task) => task.run(&sh),
        Task::Tidy(task) => task.run(&sh),
    }
}
