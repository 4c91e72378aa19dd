//! Arguments that several commands share.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, ColorChoice, ValueEnum, builder::NonEmptyStringValueParser};
use kms_core::{KeyName, ProxyRules, config::parse_duration};
use kms_kube::ClusterRef;
use kms_luks::MappingName;

use crate::{environment::Environment, output::OutputFormat};

/// The option `-f`, which stands before or after the command.
///
/// This is not a global option of clap: if a global option is given both before and after the command, clap forgets the
/// first one.
#[derive(Args, Debug, Default)]
pub(crate) struct Files {
    /// YAML or JSON with a CephCluster or its security block, and its Secrets
    ///
    /// `-` reads standard input. A file may hold several documents, and the option may be repeated. Documents of other kinds are ignored.
    #[arg(short, long = "file", value_name = "FILE", help_heading = KMS, display_order = 0)]
    pub(crate) files: Vec<PathBuf>,
}

/// The headings of the options that every command has. A command's own options have none, and come first.
pub(crate) const KMS: &str = "KMS";
const KUBERNETES: &str = "Kubernetes";
const OUTPUT: &str = "Output";

/// The options of every command. The short help of a command leaves out all but the two that name the KMS.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// The files given before and after the command.
    #[arg(skip)]
    pub(crate) files: Vec<PathBuf>,

    /// The proxies of the environment, for the API server.
    #[arg(skip)]
    pub(crate) proxies: ProxyRules,

    /// The folder where Secrets are mounted: DIR/SECRET/KEY, or the files that Rook mounts (vault.ca, ca.crt ...)
    #[arg(long, value_name = "DIR", global = true, help_heading = KMS, hide_short_help = true)]
    pub(crate) secrets_dir: Option<PathBuf>,

    /// Read the CephCluster and its Secrets from Kubernetes
    ///
    /// The NAMESPACE alone is enough if it has one CephCluster.
    #[arg(long, short = 'n', alias = "namespace", value_name = "NAMESPACE[/NAME]", global = true, value_parser = cluster)]
    #[arg(help_heading = KUBERNETES)]
    pub(crate) cluster: Option<ClusterRef>,

    /// The kubeconfig to use [default: the one that kubectl uses, otherwise the service account of the pod]
    #[arg(long, value_name = "FILE", global = true, help_heading = KUBERNETES, hide_short_help = true)]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig to use
    #[arg(long, value_name = "NAME", global = true, value_parser = NonEmptyStringValueParser::new())]
    #[arg(help_heading = KUBERNETES, hide_short_help = true)]
    pub(crate) context: Option<String>,

    /// Allow a KMS address that begins with http://; anyone on the network path can then read credentials and keys
    #[arg(long, global = true, help_heading = KMS, hide_short_help = true)]
    pub(crate) allow_http: bool,

    /// The form of the output
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t, global = true)]
    #[arg(help_heading = OUTPUT, hide_short_help = true)]
    pub(crate) output: OutputFormat,

    /// Whether text is in colour: on a terminal unless NO_COLOR is set, always, or never
    #[arg(long, value_enum, value_name = "WHEN", default_value_t, global = true)]
    #[arg(help_heading = OUTPUT, hide_short_help = true)]
    pub(crate) color: ColorChoice,

    /// The time limit of an operation, all retries included: 60, 60s, 1m30s
    #[arg(long, value_name = "D", global = true, value_parser = timeout)]
    #[arg(help_heading = KMS, hide_short_help = true)]
    pub(crate) timeout: Option<Duration>,

    /// The form of warnings and logs on standard error
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t, global = true)]
    #[arg(help_heading = OUTPUT, hide_short_help = true)]
    pub(crate) log_format: LogFormat,

    /// Log more, with time and module: -v logs each step, -vv each attempt
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = OUTPUT, hide_short_help = true)]
    pub(crate) verbose: u8,

    /// Log errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    #[arg(help_heading = OUTPUT, hide_short_help = true)]
    pub(crate) quiet: bool,
}

impl Global {
    /// Takes the settings that come from the environment.
    pub(crate) fn set_environment(&mut self, environment: &Environment) {
        self.proxies = ProxyRules::from_environment(environment.pairs());
    }
}

/// The form of the logs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One JSON document a line, with time, level and module.
    Json,
    /// Lines of text; with -v also time and module.
    #[default]
    Text,
}

/// The argument of commands about one key.
#[derive(Args, Debug)]
pub(crate) struct NameArg {
    /// The name of the key, which is the name of the OSD's data PVC
    #[arg(value_name = "NAME", value_parser = key_name)]
    pub(crate) name: KeyName,
}

/// The arguments of every command that works on one key.
#[derive(Args, Debug)]
pub(crate) struct KeyArgs {
    #[command(flatten)]
    pub(crate) files: Files,

    #[command(flatten)]
    pub(crate) arg: NameArg,
}

/// Parses the name of a key.
pub(crate) fn key_name(text: &str) -> Result<KeyName, String> {
    text.parse().map_err(|error: kms_core::Error| error.message().to_owned())
}

/// The argument of commands about an open device.
#[derive(Args, Debug)]
pub(crate) struct MapperArg {
    /// The name of the open device in /dev/mapper
    #[arg(value_name = "MAPPER", value_parser = mapping_name)]
    pub(crate) mapper: MappingName,
}

/// Parses the name of an open device. Also accepts the path of its node, `/dev/mapper/NAME`.
pub(crate) fn mapping_name(text: &str) -> Result<MappingName, String> {
    let name = text.strip_prefix("/dev/mapper/").unwrap_or(text);
    name.parse().map_err(|error: kms_core::Error| error.message().to_owned())
}

/// Parses the name of a CephCluster. Without its second part the name is empty, and is looked up before a command runs.
fn cluster(text: &str) -> Result<ClusterRef, &'static str> {
    const FORM: &str = "write it as NAMESPACE/NAME, such as rook-ceph/rook-ceph, or as NAMESPACE";
    let (kube_namespace, name) = match text.split_once('/') {
        Some((_, "")) => return Err(FORM),
        Some(parts) => parts,
        None => (text, ""),
    };
    if kube_namespace.is_empty() || name.contains('/') {
        return Err(FORM);
    }
    Ok(ClusterRef::new(kube_namespace, name))
}

fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(Duration::ZERO) => Err("it is zero".to_owned()),
        other => other,
    }
}

/// Parses a duration, which may be zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    parse_duration(text).map_err(|why| format!("it is {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_device_is_named_with_its_folder_or_without() {
        assert_eq!(mapping_name("/dev/mapper/a-block-dmcrypt").unwrap().as_str(), "a-block-dmcrypt");
        assert!(mapping_name("/dev/sda").is_err() && mapping_name("").is_err());
    }

    #[test]
    fn a_cluster_is_a_namespace_and_a_name() {
        assert_eq!(cluster("rook-ceph/my"), Ok(ClusterRef::new("rook-ceph", "my")));
        assert_eq!(cluster("rook-ceph"), Ok(ClusterRef::new("rook-ceph", "")));
        for text in ["", "/a", "a/", "a/b/c"] {
            assert!(cluster(text).is_err(), "{text}");
        }
    }
}
