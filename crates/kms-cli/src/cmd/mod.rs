//! The subcommands, one file each.

pub(crate) mod check;
pub(crate) mod close;
pub(crate) mod codegen;
pub(crate) mod completions;
pub(crate) mod create;
#[cfg(feature = "k8s-secret")]
pub(crate) mod cronjobs;
pub(crate) mod delete;
pub(crate) mod format;
pub(crate) mod get;
pub(crate) mod key_management;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod open;
pub(crate) mod providers;
pub(crate) mod put;
#[cfg(feature = "k8s-secret")]
pub(crate) mod render;
pub(crate) mod resize;
pub(crate) mod rotate;
pub(crate) mod slots;
pub(crate) mod status;
pub(crate) mod verify;

use std::{future::Future, time::SystemTime};

use kms_core::{Error, ErrorKind, Result};

use crate::{
    cli::{Cli, Command},
    context::Context,
    environment::Environment,
    exit::Exit,
    luks,
    output::Output,
};

/// Runs the subcommand of a command line.
pub(crate) fn run(cli: Cli, environment: &Environment, output: &mut Output<'_>) -> Result<Exit> {
    let (global, command) = cli.into_parts();
    match command {
        Command::Check(args) => block_on(check::run(args, &global, environment, output))?,
        Command::Create(args) => block_on(async {
            let kms = Context::new(&global, environment).await?.connect_to_write().await?;
            create::run(args, &*kms, output).await
        })?,
        Command::Put(args) => {
            // Before anything is connected: the KEK may be refused.
            let kek = put::read(&args)?;
            block_on(async {
                let kms = Context::new(&global, environment).await?.connect_to_write().await?;
                put::run(args, &kek, &*kms, output).await
            })?
        }
        Command::Get(args) => {
            get::check(&args)?;
            block_on(async {
                let kms = Context::new(&global, environment).await?.connect().await?;
                get::run(args, &*kms, output).await
            })?
        }
        Command::Delete(args) => block_on(async {
            let kms = Context::new(&global, environment).await?.connect().await?;
            delete::run(args, &*kms, output).await
        })?,
        Command::List(args) => block_on(async {
            let kms = Context::new(&global, environment).await?.connect().await?;
            list::run(args, &*kms, SystemTime::now(), output).await
        })?,
        Command::Slots(args) => block_on(slots::run(args, luks::cryptsetup(environment), output))?,
        Command::Format(args) => block_on(format::run(
            args,
            luks::cryptsetup(environment),
            async || Context::new(&global, environment).await?.connect_to_write().await,
            output,
        ))?,
        Command::Rotate(args) => block_on(async {
            let context = Context::new(&global, environment).await?;
            let around = rotate::Surroundings {
                cryptsetup: luks::cryptsetup(environment),
                kube_namespace: context.kube_namespace(),
                quiet: global.quiet,
            };
            rotate::run(args, around, async || context.connect().await, output).await
        })?,
        Command::Verify(args) => block_on(verify::run(
            args,
            luks::cryptsetup(environment),
            async || Context::new(&global, environment).await?.connect().await,
            output,
        ))?,
        Command::Open(args) => block_on(open::run(
            args,
            luks::cryptsetup(environment),
            async || Context::new(&global, environment).await?.connect().await,
            output,
        ))?,
        Command::Close(args) => block_on(close::run(args, luks::cryptsetup(environment), output))?,
        Command::Status(args) => status::run(args, luks::cryptsetup(environment), output),
        Command::Resize(args) => block_on(resize::run(args, luks::cryptsetup(environment), output))?,
        #[cfg(feature = "k8s-secret")]
        Command::Cronjobs(args) => block_on(cronjobs::run(args, &global, output))?,
        #[cfg(feature = "k8s-secret")]
        Command::Render(args) => block_on(render::run(args, &global, output))?,
        Command::Providers(args) => providers::run(args, output),
        Command::Completions(args) => completions::run(args, output),
        Command::Man(args) => man::run(args, output),
        Command::Codegen(args) => codegen::run(args, output),
        Command::KeyManagement(args) => block_on(key_management::run(args, &global, environment))?,
    }
}

/// Runs what needs the network, on this thread alone: a second one costs more than it saves in a program that lives
/// for a few milliseconds.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|cause| {
        Error::new(ErrorKind::Unexpected, "the system refused what asynchronous work needs").source(cause)
    })?;
    Ok(runtime.block_on(work))
}

/// A time as in RFC 3339, in UTC and whole seconds.
fn rfc3339(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    jiff::Timestamp::from_second(time.as_second()).ok().map(|time| time.to_string())
}
