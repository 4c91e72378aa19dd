//! The rights of the operator's and the OSDs' accounts on both sides of a migration: those in Kubernetes by access reviews,
//! those in the KMS by a login as the account if accounts log in by themselves.

use std::collections::BTreeSet;

use kms_core::{Error, ErrorKind, KeyName, KmsProviderExt as _, Result, SecuritySpec, UpdateRight};
use kms_k8s_secret::secret_name;
use kms_migrate::Plan;
use kms_rook::{
    client::RookNamespace,
    doctor::{Commands, KmsLogin, Right, boot_rights, grant, operator_rights},
    settings_secrets,
};

use super::{super::sides::Sides, live::Live};
use crate::{
    args::Global,
    cmd::clusters::{
        accounts::{Account, in_words},
        commands::commands,
    },
    output::chain,
    target::Target,
};

/// The account of the OSDs if the cluster has none yet (rook-behaviour §16).
const OSDS: &str = "rook-ceph-osd";
/// How many keys a question about the rights of an account names.
const ASKED: usize = 100;

/// What uses an account.
#[derive(Clone, Copy, Eq, PartialEq)]
enum User {
    Operator,
    Osds,
}

/// An account, and the rights that it needs in Kubernetes for one side.
struct Needs {
    account: Account,
    user: User,
    rights: Vec<Right>,
}

/// One side while its accounts are checked.
struct Checked<'a> {
    /// `from` or `to`.
    side: &'static str,
    target: &'a Target,
    place: &'a RookNamespace,
    commands: &'a Commands,
}

impl Live<'_> {
    /// Adds what the accounts of the operator and of the OSDs lack on either side, and what could not be checked. A lack at the
    /// target stops the migration. One at the source is a note: the OSDs leave it, and only abort needs it again.
    ///
    /// # Errors
    ///
    /// Errors of the connection to the API server, and `ConfigInvalid` if a side names no known provider.
    pub(in super::super) async fn check_accounts(
        &self,
        sides: &Sides,
        operator: Option<&Account>,
        global: &Global,
        plan: &mut Plan,
    ) -> Result<()> {
        let (place, commands) = (self.place(), commands(global));
        let osds = place.osds().await?.osds;
        let mut of_osds: BTreeSet<&str> = osds.iter().map(|osd| osd.service_account()).collect();
        if of_osds.is_empty() {
            of_osds.insert(OSDS);
        }
        let operator = self.operator(operator, plan).await?;
        for (side, target) in ["from", "to"].into_iter().zip(sides.targets()) {
            let security = target.security();
            let checked = Checked { side, target, place, commands: &commands };
            let boot = boot_rights(security, self.name(), &osds, secret_name)?;
            let mut needs: Vec<Needs> = of_osds
                .iter()
                .map(|name| Account::new(place.name(), name))
                .map(|account| Needs { account, user: User::Osds, rights: boot.clone() })
                .collect();
            if let Some(account) = &operator {
                let rights = operator_rights(security)?;
                needs.push(Needs { account: account.clone(), user: User::Operator, rights });
            }
            checked.secrets(security, plan).await?;
            checked.kubernetes(&needs, plan).await?;
            checked.kms(KmsLogin::of(security)?, &needs, plan).await?;
        }
        Ok(())
    }

    /// The account of the operator. `None`, with a note, if it is absent.
    async fn operator(&self, named: Option<&Account>, plan: &mut Plan) -> Result<Option<Account>> {
        let account = named.cloned().unwrap_or_else(|| Account::operator_in(self.place().name()));
        let place = self.place().in_namespace(&account.kube_namespace);
        match place.has_service_account(&account.name).await {
            Ok(false) => {
                plan.notes.push(format!(
                    "not checked: the rights of the operator: {account} does not exist; name the operator's account with \
                     --operator NAMESPACE[/ACCOUNT]"
                ));
                Ok(None)
            }
            // To read a service account is a right that nothing else needs.
            Err(error) if error.kind() != ErrorKind::PermissionDenied => Err(error),
            Ok(true) | Err(_) => Ok(Some(account)),
        }
    }
}

impl Checked<'_> {
    /// Adds what an account lacks.
    fn lack(&self, text: &str, plan: &mut Plan) {
        let text = format!("{}: {text}", self.side);
        if self.side == "to" { plan.stops.push(text) } else { plan.notes.push(text) }
    }

    fn not_checked(&self, what: &str, why: &Error, next: &str, plan: &mut Plan) {
        plan.notes.push(format!("not checked: {}: {what}: {}: {next}", self.side, chain(why)));
    }

    /// Checks that the Secrets that the settings name exist.
    async fn secrets(&self, security: &SecuritySpec, plan: &mut Plan) -> Result<()> {
        if KmsLogin::of(security)? == KmsLogin::Kubernetes {
            return Ok(());
        }
        for name in settings_secrets(security) {
            match self.place.has_secret(&name).await {
                Ok(true) => {}
                Ok(false) => {
                    let place = self.place.name();
                    let text = format!(
                        "the settings name the Secret {name}, and the namespace {place} does not have it, so no OSD starts: \
                         create it there"
                    );
                    self.lack(&text, plan);
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    let next = self.commands.kubectl(&format!("get secret {name}"));
                    self.not_checked(&format!("whether the Secret {name} exists"), &error, &next, plan);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Checks the rights in Kubernetes.
    async fn kubernetes(&self, needs: &[Needs], plan: &mut Plan) -> Result<()> {
        for Needs { account, user, rights } in needs {
            let Account { kube_namespace, name } = account;
            match self.place.lacks(kube_namespace, name, rights).await {
                Ok(lacking) if lacking.is_empty() => {}
                Ok(lacking) => {
                    let text = format!(
                        "{account} may not {}, {}: {}",
                        in_words(&lacking),
                        user.consequence(),
                        grant(&lacking, kube_namespace, name, self.commands)
                    );
                    self.lack(&text, plan);
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    let next =
                        format!("auth can-i --list --as=system:serviceaccount:{kube_namespace}:{name}");
                    let next = self.commands.kubectl(&next);
                    self.not_checked(&format!("what {account} may do in Kubernetes"), &error, &next, plan);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Checks the rights in the KMS.
    async fn kms(&self, login: KmsLogin, needs: &[Needs], plan: &mut Plan) -> Result<()> {
        let Self { side, target, .. } = self;
        match login {
            KmsLogin::ByOwnAccount => {
                for Needs { account, user, .. } in needs {
                    self.login(account, *user, plan).await?;
                }
            }
            KmsLogin::ByAgent => plan.notes.push(format!(
                "not checked: {side}: the rights of the agents beside the pods: run kms check in a pod of an OSD"
            )),
            KmsLogin::Kubernetes => {}
            _ => {
                let secret = target.security().kms.token_secret_name.trim();
                let named = if secret.is_empty() { String::new() } else { format!(" of the Secret {secret}") };
                plan.notes.push(format!(
                    "{side}: the operator and the OSDs use the same credentials{named} as this plan, which has checked their \
                     rights in the KMS"
                ));
            }
        }
        Ok(())
    }

    /// Logs in to the KMS as an account, and looks at its rights there.
    async fn login(&self, account: &Account, user: User, plan: &mut Plan) -> Result<()> {
        let Account { kube_namespace, name } = account;
        let token = match self.place.account_token(kube_namespace, name).await {
            Ok(token) => token,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                let what =
                    format!("the login to the KMS as {account}, since kms cannot create a token for it");
                self.not_checked(&what, &error, "run kms check in a pod of that account", plan);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let kms = self.target.connect_as_account(token).await?;
        let probe = kms.probed().await;
        if let Some((step, error)) = probe.failed {
            let text = format!("{account} at the KMS: {step}: {}, {}", chain(&error), user.consequence());
            self.lack(&text, plan);
            return Ok(());
        }
        let warned = probe.warned.into_iter();
        plan.notes.extend(
            warned.map(|(step, note)| format!("{}: {account} at the KMS: {step}: {note}", self.side)),
        );
        if user == User::Operator {
            let names: Vec<KeyName> = plan.names.iter().take(ASKED).cloned().collect();
            let rights = kms.may_update(&names).await?;
            let denied = rights.iter().filter(|right| **right == UpdateRight::Denied).count();
            if denied > 0 {
                let text = format!(
                    "{account} may not write {denied} of {} keys in the KMS, {}: give its role a policy that may",
                    names.len(),
                    user.consequence()
                );
                self.lack(&text, plan);
            }
        }
        Ok(())
    }
}

impl User {
    /// What does not work without the rights.
    const fn consequence(self) -> &'static str {
        match self {
            Self::Operator => "so Rook cannot make keys for new OSDs",
            Self::Osds => "so the OSDs do not start",
        }
    }
}
