//! The probe of the server, the account and its rights, which `kms check` shows.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kms_core::{Error, ErrorKind, KeyName, Probe, Result, UpdateRight};
use kms_kube::{Failure, Secrets};

use crate::{
    name::Names,
    stored::{check_mutable, check_ours},
};

const PERMISSIONS: &str = "permissions";

/// How many keys are asked about at a time: a cluster may have a thousand.
const PARALLEL: usize = 8;

/// The verbs on Secrets, and what fails without each. Opening a device needs the first verb only.
const VERBS: [(&str, &str); 5] = [
    ("get", "no key can be read"),
    ("create", "no key can be created"),
    ("update", "no key can be rotated or overwritten"),
    ("delete", "no key can be deleted"),
    ("list", "keys cannot be listed"),
];

pub(crate) async fn probe(secrets: &Secrets, probe: &mut Probe) -> Option<()> {
    let (connection, kube_namespace) = (secrets.connection(), secrets.kube_namespace());
    let server = connection.server().unwrap_or("the client's own server");
    probe.pass("config", format!("{server}, namespace {kube_namespace}"));
    let account = connection.probe_server(&[PERMISSIONS], probe).await?;

    for (verb, loss) in VERBS {
        match may(secrets, verb).await {
            Ok(May::All) => probe.pass(PERMISSIONS, format!("{verb} secrets: yes")),
            Ok(May::Named(names)) => {
                probe.pass(PERMISSIONS, format!("{verb} secrets: only those of {names} given names"));
            }
            Ok(May::No) if verb == "get" => {
                let error = Error::new(
                    ErrorKind::PermissionDenied,
                    format!(
                        "{account} may not get secrets in namespace {kube_namespace}, so {loss}: add to its Role the \
                         rule {{apiGroups: [\"\"], resources: [\"secrets\"], verbs: [\"get\"]}}"
                    ),
                );
                return probe.fail(PERMISSIONS, error);
            }
            Ok(May::No) => {
                probe.cannot_destroy |= verb == "delete";
                probe.warn(
                    PERMISSIONS,
                    format!(
                        "{account} may not {verb} secrets in namespace {kube_namespace}, so {loss}: add the verb to its \
                         Role"
                    ),
                );
            }
            Err(failure) if failure.error.kind() == ErrorKind::PermissionDenied => {
                probe.warn(PERMISSIONS, "unknown: the account may not ask what it may do");
                break;
            }
            Err(failure) => return probe.fail(PERMISSIONS, failure.error),
        }
    }
    Some(())
}

/// The Secrets that a verb is allowed for.
enum May {
    All,
    Named(usize),
    No,
}

/// Asks whether an update of these keys would succeed: whether the account has the right, and whether each Secret can
/// change. An access review does not know of `immutable: true`.
pub(crate) async fn may_update(secrets: &Secrets, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
    let rights = rights(secrets, names).await?;
    let asked = names.iter().zip(rights).map(|(name, right)| async move {
        let is_denied = right == UpdateRight::Denied || is_fixed(secrets, name).await;
        if is_denied { UpdateRight::Denied } else { right }
    });
    let asked: Vec<_> = asked.collect();
    Ok(stream::iter(asked).buffered(PARALLEL).collect().await)
}

/// Whether this provider refuses to write to the Secret of a key. `false` if the Secret cannot be read: a rotation reads
/// it too, and shows the error.
async fn is_fixed(secrets: &Secrets, name: &KeyName) -> bool {
    let names = Names::of(name);
    match secrets.read(&names.secret).await {
        Ok(secret) => check_ours(&secret, &names).and_then(|()| check_mutable(&secret)).is_err(),
        Err(_) => false,
    }
}

/// Asks whether the account may update the Secrets of these keys: once for all Secrets, and if that is denied, for each.
async fn rights(secrets: &Secrets, names: &[KeyName]) -> Result<Vec<UpdateRight>> {
    let ask = |name: Option<String>| async move {
        match secrets.is_allowed("update", name).await {
            Ok(true) => Ok(UpdateRight::Granted),
            Ok(false) => Ok(UpdateRight::Denied),
            Err(failure) if failure.error.kind() == ErrorKind::PermissionDenied => Ok(UpdateRight::Unknown),
            Err(failure) => Err(failure.error),
        }
    };
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let all = ask(None).await?;
    if all != UpdateRight::Denied {
        return Ok(vec![all; names.len()]);
    }
    let each: Vec<_> = names.iter().map(|name| ask(Some(Names::of(name).secret))).collect();
    stream::iter(each).buffered(PARALLEL).try_collect().await
}

async fn may(secrets: &Secrets, verb: &str) -> Result<May, Failure> {
    if secrets.is_allowed(verb, None).await? {
        return Ok(May::All);
    }
    // A Role may allow the verb only for named Secrets, which the first question does not cover.
    let names = secrets.count_allowed_names(verb).await?;
    Ok(if names == 0 { May::No } else { May::Named(names) })
}
