//! The checks of service accounts: what the OSDs, the rotation jobs and the operator may do.

use std::collections::BTreeSet;

use kms_core::{Error, Result, SecuritySpec};
use kms_k8s_secret::secret_name;
use kms_rook::{
    Discovery,
    client::RookNamespace,
    doctor::{
        Code, CronJobFacts, Finding, Right, admission, boot_rights,
        codes::{
            ADMISSION, NO_ACCOUNT, NO_OPERATOR, OPERATOR_RIGHTS, OSD_RIGHTS, REVIEWS, ROTATION_RIGHTS,
            STATUS_RIGHTS,
        },
        operator_rights, rotation_rights, status_rights,
    },
};

use super::Doctor;
use crate::cmd::clusters::accounts::{Account, in_words};

/// What is known of the cluster when its accounts are checked.
pub(super) struct Known<'a> {
    pub(super) place: &'a RookNamespace,
    pub(super) security: &'a SecuritySpec,
    pub(super) cluster: &'a str,
    pub(super) osds: Option<&'a Discovery>,
    pub(super) jobs: Option<&'a [CronJobFacts]>,
}

impl Doctor<'_> {
    /// Checks the accounts, and whether the namespace admits their pods.
    pub(super) async fn accounts(&mut self, known: &Known<'_>, operator: Option<&Account>) {
        let Known { place, security, cluster, osds, jobs } = known;
        if let Some(jobs) = jobs {
            self.rotation_accounts(place, jobs).await;
        }
        if let Some(osds) = osds {
            let accounts: BTreeSet<&str> = osds.osds.iter().map(|osd| osd.service_account()).collect();
            let rights = boot_rights(security, cluster, &osds.osds, secret_name);
            self.check_rights(place, OSD_RIGHTS, accounts, rights).await;
        }
        if let (Some(osds), Some(jobs)) = (osds, jobs) {
            let accounts = || jobs.iter().map(|job| job.account.as_str()).collect::<BTreeSet<_>>();
            if !self.diagnosis.has_found(NO_ACCOUNT) && !jobs.is_empty() {
                let rights = rotation_rights(security, cluster, &osds.osds, secret_name);
                self.check_rights(place, ROTATION_RIGHTS, accounts(), rights).await;
                let rights = Ok(status_rights(&osds.osds));
                self.check_rights(place, STATUS_RIGHTS, accounts(), rights).await;
            }
        }
        self.operator(place, security, operator).await;
        match place.pod_security().await {
            Ok(level) => admission(place.name(), level.as_deref(), &self.commands, &mut self.diagnosis),
            // To read a namespace is a right that nothing else needs.
            Err(error) => {
                let object = format!("Namespace {}", place.name());
                self.diagnosis.not_seen(ADMISSION, object, error);
            }
        }
    }

    /// Checks that the accounts of the rotation jobs exist.
    async fn rotation_accounts(&mut self, place: &RookNamespace, jobs: &[CronJobFacts]) {
        let accounts: BTreeSet<&str> = jobs.iter().map(|job| job.account.as_str()).collect();
        for account in accounts {
            let object = format!("ServiceAccount {}/{account}", place.name());
            match place.has_service_account(account).await {
                Ok(true) => self.diagnosis.pass(NO_ACCOUNT, object, "it exists"),
                Ok(false) => {
                    let text = "CronJobs name it, and it does not exist, so their pods are not made";
                    let next = self.commands.kubectl(&format!("get serviceaccount {account}"));
                    self.diagnosis.add(Finding::new(NO_ACCOUNT, object, text, next));
                }
                Err(error) => {
                    self.diagnosis.not_seen(NO_ACCOUNT, object, error);
                }
            }
        }
    }

    /// Checks the rights of the operator in the namespace of the cluster.
    async fn operator(&mut self, place: &RookNamespace, security: &SecuritySpec, named: Option<&Account>) {
        let default = Account::operator_in(place.name());
        let account = named.unwrap_or(&default);
        let object = account.to_string();
        let exists = place.in_namespace(&account.kube_namespace).has_service_account(&account.name).await;
        match exists {
            Ok(true) => self.diagnosis.pass(NO_OPERATOR, &object, "it exists"),
            Ok(false) => {
                let text = "it does not exist: name the account of the operator with --operator";
                let next = self.commands.kms("doctor --operator NAMESPACE");
                self.diagnosis.add(Finding::new(NO_OPERATOR, object, text, next));
                return;
            }
            Err(error) => {
                self.diagnosis.not_seen(NO_OPERATOR, &object, error);
            }
        }
        match operator_rights(security) {
            Ok(rights) => self.ask(place, OPERATOR_RIGHTS, account, &rights).await,
            Err(error) => self.settings_failed(error),
        }
    }

    async fn check_rights(
        &mut self,
        place: &RookNamespace,
        code: Code,
        accounts: BTreeSet<&str>,
        rights: Result<Vec<Right>>,
    ) {
        let rights = match rights {
            Ok(rights) => rights,
            Err(error) => return self.settings_failed(error),
        };
        for account in accounts {
            let account = Account::new(place.name(), account);
            self.ask(place, code, &account, &rights).await;
        }
    }

    /// Asks for the rights of an account, and adds what it lacks.
    async fn ask(&mut self, place: &RookNamespace, code: Code, account: &Account, rights: &[Right]) {
        if self.diagnosis.has_found(REVIEWS) {
            return;
        }
        let Account { kube_namespace, name } = account;
        match place.lacks(kube_namespace, name, rights).await {
            Ok(lacking) => {
                if !self.diagnosis.has_made(REVIEWS) {
                    self.diagnosis.pass(REVIEWS, "subjectaccessreviews", "may be asked for");
                }
                let object = account.to_string();
                let finding = (!lacking.is_empty()).then(|| {
                    let text = format!("it may not {}", in_words(&lacking));
                    Finding::new(code, &object, text, self.next(code, account))
                });
                self.diagnosis.add_all(code, finding, object, "it has the rights");
            }
            Err(error) => self.reviews_failed(error),
        }
    }

    fn reviews_failed(&mut self, error: Error) {
        let next = self.commands.kubectl("auth can-i create subjectaccessreviews.authorization.k8s.io");
        self.diagnosis.add(Finding::failed(REVIEWS, "subjectaccessreviews", error, next));
    }

    /// What to do about rights that an account lacks.
    fn next(&self, code: Code, account: &Account) -> String {
        let Account { kube_namespace, name } = account;
        if [ROTATION_RIGHTS, STATUS_RIGHTS].contains(&code) {
            return self.commands.kms(&format!("cronjobs rights --service-account {name}"));
        }
        self.commands
            .kubectl(&format!("auth can-i --list --as=system:serviceaccount:{kube_namespace}:{name}"))
    }
}
