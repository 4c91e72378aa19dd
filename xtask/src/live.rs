//! The environment of live tests: programs, one shared API server, and a folder for temporary files.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use kms_testkit::servers::{self, Kube, Scratch, process};
use xshell::{Cmd, Shell, cmd};

use crate::{
    image,
    provision::{self, Vm, target_dir},
    run::{block_on, clock, root, run, servers_dir},
    vm,
};

/// The things that the tests of a run need in addition to servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// The program under test.
    pub(crate) kms: bool,
    /// Go's own age and tar.
    pub(crate) go_age: bool,
    /// Prometheus' own parser and engine.
    pub(crate) go_promql: bool,
    /// Helm's and kustomize's own code.
    pub(crate) go_install: bool,
    /// Go's own TLS as a server.
    pub(crate) go_tls: bool,
    /// Microsoft's own clients for Key Vault.
    pub(crate) azure_clients: bool,
    /// IBM's own clients for Key Protect.
    pub(crate) ibm_clients: bool,
    /// A Python with PyKMIP, and the KMIP server on Go's libraries.
    pub(crate) pykmip: bool,
    /// Chromium and the program that drives it.
    pub(crate) browser: bool,
    /// The program that works on LUKS devices.
    pub(crate) cryptsetup: bool,
    /// The library for wrong clocks.
    pub(crate) faketime: bool,
    /// A virtual machine.
    pub(crate) vm: bool,
}

impl Needs {
    /// All but `kms`, which the caller sets, and the virtual machine: see [`Live::add_vm`].
    pub(crate) const ALL: Self = Self {
        azure_clients: true,
        browser: true,
        cryptsetup: true,
        faketime: true,
        go_age: true,
        go_promql: true,
        go_install: true,
        go_tls: true,
        ibm_clients: true,
        kms: false,
        pykmip: true,
        vm: false,
    };

    /// Nothing but the API server and OpenBao, which every run has.
    pub(crate) const NONE: Self = Self {
        azure_clients: false,
        browser: false,
        cryptsetup: false,
        faketime: false,
        go_age: false,
        go_promql: false,
        go_install: false,
        go_tls: false,
        ibm_clients: false,
        kms: false,
        pykmip: false,
        vm: false,
    };
}

/// The environment of one run of live tests. Dropping it stops every server that the tests left running.
#[derive(Debug)]
pub(crate) struct Live {
    env: Vec<(&'static str, OsString)>,
    ids: PathBuf,
    documents: PathBuf,
    // Fields are dropped in this order: the API server has its files in the folder.
    _kube: Kube,
    folder: Scratch,
}

impl Live {
    /// Provisions servers and programs, and starts an API server.
    pub(crate) fn start(sh: &Shell, needs: Needs) -> Result<Self> {
        let programs = provision::kube(sh)?;
        let mut env = vec![
            (servers::BAO, provision::bao(sh)?.into_os_string()),
            (servers::KUBE_BIN, programs.clone().into_os_string()),
        ];
        if needs.kms {
            env.push((servers::KMS, provision::kms_dev(sh)?.into_os_string()));
        }
        if needs.go_age {
            env.push(("KMS_IT_GO_AGE", provision::go_age(sh)?.into_os_string()));
        }
        if needs.go_promql {
            env.push(("KMS_IT_GO_PROMQL", provision::go_promql(sh)?.into_os_string()));
        }
        if needs.go_install {
            env.push(("KMS_IT_GO_INSTALL", provision::go_install(sh)?.into_os_string()));
        }
        if needs.go_tls {
            env.push(("KMS_IT_GO_TLS", provision::go_tls(sh)?.into_os_string()));
        }
        if needs.azure_clients {
            let names = ["KMS_IT_AZURE_PYTHON", "KMS_IT_AZURE_NODE_PATH"];
            env.extend(names.into_iter().zip(provision::azure_clients(sh)?.map(PathBuf::into_os_string)));
        }
        if needs.ibm_clients {
            let names = ["KMS_IT_IBM_PYTHON", "KMS_IT_IBM_NODE_PATH", "KMS_IT_IBM_GO"];
            env.extend(names.into_iter().zip(provision::ibm_clients(sh)?.map(PathBuf::into_os_string)));
        }
        if needs.pykmip {
            env.push((servers::PYKMIP, provision::pykmip(sh)?.into_os_string()));
            env.push((servers::KMIP_GO, provision::kmip_go(sh)?.into_os_string()));
        }
        if needs.browser {
            env.push((servers::CHROMEDRIVER, provision::chromedriver(sh)?.into_os_string()));
            let pictures = target_dir(sh).join("pictures");
            sh.create_dir(&pictures)?;
            env.push((servers::PICTURES, pictures.into_os_string()));
        }
        if needs.cryptsetup {
            provision::cryptsetup(sh)?;
        }
        if needs.faketime {
            env.push((servers::FAKETIME, provision::faketime(sh)?.into_os_string()));
        }
        let vm = if needs.vm { Some((provision::vm(sh)?, provision::kms_dev(sh)?)) } else { None };
        let folder = Scratch::at(servers_dir().join(format!("run-{}", std::process::id())))?;
        let [ids, temp, documents] = ["pids", "tmp", "documents"].map(|name| folder.path().join(name));
        for path in [&ids, &temp, &documents] {
            sh.create_dir(path)?;
        }
        process::sweep_on_exit(&ids);
        env.push((servers::PIDS, ids.clone().into_os_string()));
        env.push((servers::DOCUMENTS, documents.clone().into_os_string()));
        // Files of a killed test are removed with the folder.
        env.push(("TMPDIR", temp.into_os_string()));
        let place = folder.path().join("kube");
        let kube =
            block_on(Kube::start_in(&programs, Scratch::kept(&place)?))?.context("start the API server")?;
        eprintln!("kube-apiserver is ready after {}", clock(kube.took()));
        env.push((servers::KUBE, place.into_os_string()));
        let mut live = Self { env, ids, documents, _kube: kube, folder };
        if let Some((vm, kms)) = vm {
            live.add_vm(vm);
            live.add_image(sh, &kms)?;
        }
        Ok(live)
    }

    /// Adds a virtual machine to the environment of the tests.
    pub(crate) fn add_vm(&mut self, vm: Vm) {
        self.env.push((vm::QEMU, vm.qemu.into_os_string()));
        self.env.push((vm::FOLDER, vm.folder.into_os_string()));
    }

    /// Adds the image with this program, as a folder.
    ///
    /// # Errors
    ///
    /// If this machine cannot make the image.
    pub(crate) fn add_image(&mut self, sh: &Shell, kms: &Path) -> Result<()> {
        let place = self.folder.path().join("image");
        sh.create_dir(&place)?;
        let root = image::unpacked(sh, kms, &place)?;
        self.env.push((vm::IMAGE, root.into_os_string()));
        Ok(())
    }

    /// Sets a variable in the environment of the tests.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.env.push((name, value.into()));
    }

    /// Validates the documents that `kms` has written in tests by the schemas in `docs/schema`.
    pub(crate) fn validate(&self, sh: &Shell) -> Result<()> {
        let python = provision::jsonschema(sh)?;
        let (program, schemas) =
            (root().join("tests/clients/jsonschema/validate.py"), root().join("docs/schema"));
        let documents = &self.documents;
        run(cmd!(sh, "{python} {program} {schemas} {documents}"))
            .context("output of kms is not as docs/schema says (cargo xtask codegen)")
    }

    /// Adds the settings that tests read to a command.
    pub(crate) fn apply<'a>(&self, cmd: Cmd<'a>) -> Cmd<'a> {
        cmd.envs(self.env.iter().map(|(name, value)| (name, value)))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        match process::sweep(&self.ids) {
            Ok(0) => (),
            Ok(count) => eprintln!("stopped {count} servers that tests left running"),
            Err(error) => eprintln!("could not look for servers that tests left running: {error:#}"),
        }
    }
}
