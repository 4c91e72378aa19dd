//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand, builder::NonEmptyStringValueParser};
use kms_core::{KeyName, config::parse_duration};
use kms_luks::MappingName;

use crate::{cmd, exit::Exit, output::Format};

/// Keys of encrypted Ceph OSDs, in the KMS that a Rook CephCluster names
///
/// The KMS is found in this order: in the YAML documents given with -f; in the CephCluster given with --cluster; in
/// the environment, as Rook sets it in its pods.
#[derive(Debug, Parser)]
#[command(name = "kms", version, arg_required_else_help = true, after_help = exit_codes())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) files: Files,
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is read before anything else.
///
/// It is no global option of clap's: of one that is given before the command and after it, clap forgets the first.
#[derive(Args, Debug, Default)]
pub(crate) struct Files {
    /// YAML or JSON with a CephCluster or its security block, and the Secrets that it names; `-` is standard input
    ///
    /// A file may have several documents, and the option may be repeated. Documents of other kinds are passed over.
    #[arg(short, long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// Options that every command has.
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// The files that are given before the command and after it.
    #[arg(skip)]
    pub(crate) files: Vec<PathBuf>,

    /// Read the CephCluster and its Secrets from Kubernetes
    #[arg(long, value_name = "NAMESPACE/NAME", global = true, value_parser = cluster)]
    pub(crate) cluster: Option<ClusterName>,

    /// Where Secrets are mounted: DIR/SECRET/KEY, or Rook's own files (vault.ca, ca.crt ...)
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) secrets_dir: Option<PathBuf>,

    /// The kubeconfig to use; without it, what kubectl would use, or the pod's service account
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig to use
    #[arg(long, value_name = "NAME", global = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) context: Option<String>,

    /// Allow a KMS address that begins with http://, which lets everybody on the way read credentials and keys
    #[arg(long, global = true)]
    pub(crate) allow_http: bool,

    /// The form of the output
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t, global = true)]
    pub(crate) output: Format,

    /// How long an operation may take with all its tries: 60, 60s, 1m30s
    #[arg(long, value_name = "D", global = true, value_parser = timeout)]
    pub(crate) timeout: Option<Duration>,

    /// Log more: -v what is done, -vv every try
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub(crate) verbose: u8,

    /// Log errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

/// The name of a CephCluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ClusterName {
    pub(crate) kube_namespace: String,
    pub(crate) name: String,
}

/// The commands, in the order of the help text.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connect, log in, and show what was presented and found
    ///
    /// Unless --read-only is given, a canary key is stored, read back, compared and deleted.
    Check(cmd::check::Args),
    /// Generate a KEK and store it
    Create(cmd::create::Args),
    /// Store a KEK that exists
    Put(cmd::put::Args),
    /// Write a KEK to standard output or to a file
    Get(cmd::get::Args),
    /// Delete a KEK for good
    Delete(cmd::delete::Args),
    /// List the keys, never their KEKs
    List(cmd::list::Args),
    /// Show the key slots of a LUKS device, and what each costs to open
    ///
    /// Slots 0 and 1 are those that the KEK and its rotation use. All others are somebody else's and are never touched.
    Slots(cmd::slots::Args),
    /// Make an empty device a LUKS device that the KEK opens; the KEK is created if there is none
    Format(cmd::format::Args),
    /// Give an OSD a new KEK, or all OSDs of this host
    ///
    /// The KEK that the KMS returns opens every device at every moment. What was interrupted, the next run finishes.
    #[command(
        override_usage = "kms rotate [OPTIONS] <NAME> <DEVICE> [METADATA] [WAL]\n       kms rotate [OPTIONS] --all"
    )]
    Rotate(cmd::rotate::Args),
    /// Try whether the KEK that the KMS holds opens the devices; changes nothing
    Verify(cmd::verify::Args),
    /// Open the devices of an OSD with its KEK
    ///
    /// Devices that are open are left alone; if all are, the KMS is not asked.
    Open(cmd::open::Args),
    /// Close an open device
    Close(cmd::close::Args),
    /// Show what an open device is mapped to; fails if it leads nowhere
    Status(cmd::status::Args),
    /// Let an open device grow to the size of the disk below
    Resize(cmd::resize::Args),
    /// Rotate keys by CronJobs: one for each encrypted OSD of a CephCluster
    ///
    /// security.keyRotation of the CephCluster says whether and when. The CronJobs are those of Rook, with its names,
    /// and run kms where Rook's run rook.
    #[cfg(feature = "k8s-secret")]
    Cronjobs(cmd::cronjobs::Args),
    /// Print what a pod needs for a security block
    #[cfg(feature = "k8s-secret")]
    Render(cmd::render::Args),
    /// Show which providers there are, and what is compiled in
    Providers(cmd::providers::Args),
    /// Print a completion script for a shell
    Completions(cmd::completions::Args),
    /// Print the manual page
    Man(cmd::man::Args),
    /// Print a generated part of the documentation
    #[command(hide = true)]
    Codegen(cmd::codegen::Args),
    /// Stand in for `rook key-management`
    #[command(hide = true)]
    KeyManagement(cmd::key_management::Args),
}

impl Command {
    /// The files that are given after the command.
    fn files(&mut self) -> Vec<PathBuf> {
        let files = match self {
            Self::Check(args) => &mut args.files,
            Self::Create(args) => &mut args.files,
            Self::Put(args) => &mut args.files,
            Self::Get(args) => &mut args.files,
            Self::Delete(args) => &mut args.files,
            Self::List(args) => &mut args.files,
            Self::Format(args) => &mut args.files,
            Self::Rotate(args) => &mut args.files,
            Self::Verify(args) => &mut args.files,
            Self::Open(args) => &mut args.files,
            Self::KeyManagement(args) => &mut args.files,
            #[cfg(feature = "k8s-secret")]
            Self::Cronjobs(args) => args.files(),
            #[cfg(feature = "k8s-secret")]
            Self::Render(args) => args.files(),
            Self::Slots(_)
            | Self::Close(_)
            | Self::Status(_)
            | Self::Resize(_)
            | Self::Providers(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Codegen(_) => return Vec::new(),
        };
        std::mem::take(&mut files.files)
    }
}

impl Cli {
    /// Options and command, with all files among the options.
    pub(crate) fn into_parts(self) -> (Global, Command) {
        let Self { files, mut global, mut command } = self;
        global.files = files.files;
        global.files.extend(command.files());
        (global, command)
    }
}

/// The argument that most commands have.
#[derive(Args, Debug)]
pub(crate) struct NameArg {
    /// The name of the key: that of the OSD's data PVC
    #[arg(value_name = "NAME", value_parser = key_name)]
    pub(crate) name: KeyName,
}

pub(crate) fn key_name(text: &str) -> Result<KeyName, String> {
    text.parse().map_err(|error: kms_core::Error| error.message().to_owned())
}

/// The argument of commands about an open device.
#[derive(Args, Debug)]
pub(crate) struct MapperArg {
    /// The name of the open device: that of its node in /dev/mapper
    #[arg(value_name = "MAPPER", value_parser = mapping_name)]
    pub(crate) mapper: MappingName,
}

pub(crate) fn mapping_name(text: &str) -> Result<MappingName, String> {
    // Whoever gives the path of the node means its name.
    let name = text.strip_prefix("/dev/mapper/").unwrap_or(text);
    name.parse().map_err(|error: kms_core::Error| error.message().to_owned())
}

fn cluster(text: &str) -> Result<ClusterName, &'static str> {
    match text.split_once('/') {
        Some((kube_namespace, name))
            if !kube_namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(ClusterName { kube_namespace: kube_namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err("it has to be NAMESPACE/NAME, such as rook-ceph/rook-ceph"),
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("it is zero".to_owned()),
        Ok(timeout) => Ok(timeout),
        Err(why) => Err(format!("it is {why}")),
    }
}

fn exit_codes() -> String {
    let line = |exit: Exit| format!("  {}  {}", exit.code(), exit.meaning());
    format!("Exit codes:\n{}", Exit::ALL.map(line).join("\n"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn files_may_be_given_before_and_after_the_command() {
        let cli = Cli::try_parse_from(["kms", "-f", "a", "get", "-fb", "x", "--file=c"]).unwrap();
        assert_eq!(cli.into_parts().0.files, ["a", "b", "c"].map(PathBuf::from));
    }

    #[test]
    fn an_open_device_is_named_with_its_folder_or_without() {
        assert_eq!(mapping_name("/dev/mapper/a-block-dmcrypt").unwrap().as_str(), "a-block-dmcrypt");
        assert!(mapping_name("/dev/sda").is_err() && mapping_name("").is_err());
    }

    #[test]
    fn a_cluster_is_a_namespace_and_a_name() {
        assert!(cluster("rook-ceph/my").is_ok());
        for text in ["", "a", "/a", "a/", "a/b/c"] {
            assert!(cluster(text).is_err(), "{text}");
        }
    }
}
