//! Opening of devices: with stand-ins for the kernel and cryptsetup, which a VM replaces by real ones, and for real as
//! far as the machine of the test allows.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use kms_core::{Error, ErrorKind};
use kms_luks::{Cryptsetup, Device, Mapping, MappingName, Opened, Sysfs};

use crate::common::{Image, kek};

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";
const DM_UUID: &str = "CRYPT-LUKS2-0123456789abcdef0123456789abcdef-osd";

/// A kernel's view of devices, in a folder, and a cryptsetup that changes it.
struct Machine {
    image: Image,
    sys: PathBuf,
}

impl Machine {
    /// A machine without mappings. Its device is an image with the beginning of a LUKS2 header.
    fn new() -> Self {
        let image = Image::blank();
        let mut header = vec![0; 8192];
        header[..8].copy_from_slice(b"LUKS\xba\xbe\x00\x02");
        header[168..168 + UUID.len()].copy_from_slice(UUID.as_bytes());
        fs::write(image.path(), header).unwrap();
        let sys = image.beside("sys");
        for folder in ["block/sda", "class/misc/device-mapper", "nodes"] {
            fs::create_dir_all(sys.join(folder)).unwrap();
        }
        Self { image, sys }
    }

    /// Writes a mapping into `folder`, on a loop device with this image.
    fn mapping(&self, folder: &Path, uuid: &str, sectors: u64, on: Option<&Path>) {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        };
        write("dm/name", "osd".to_owned());
        write("dm/uuid", uuid.to_owned());
        write("dm/suspended", "0".to_owned());
        write("size", sectors.to_string());
        write("ro", "0".to_owned());
        fs::create_dir_all(folder.join("slaves/loop0")).unwrap();
        if let Some(image) = on {
            write("slaves/loop0/dev", "7:0".to_owned());
            write("slaves/loop0/loop/backing_file", image.display().to_string());
        }
    }

    /// Adds a mapping, and its node if `node`.
    fn mapped(&self, uuid: &str, sectors: u64, on: Option<&Path>, node: bool) {
        self.mapping(&self.sys.join("block/dm-0"), uuid, sectors, on);
        if node {
            fs::write(self.sys.join("nodes/osd"), "").unwrap();
        }
    }

    /// The device, with a cryptsetup that maps and unmaps. `$1` is the action; `extra` runs first.
    fn device(&self, extra: &str) -> Device {
        let staged = self.image.beside("staged");
        self.mapping(&staged, DM_UUID, 8, Some(&self.path()));
        let script = self.image.script(
            "cryptsetup",
            &format!(
                "sys={sys}\necho $1 >> $sys/calls\n{extra}\n\
                 case $1 in\n\
                   open) cp -r {staged} $sys/block/dm-0; touch $sys/nodes/osd;;\n\
                   close) rm -r $sys/block/dm-0; rm -f $sys/nodes/osd;;\n\
                 esac",
                sys = self.sys.display(),
                staged = staged.display(),
            ),
        );
        Device::new(self.cryptsetup().with_program(script), self.image.path())
    }

    fn cryptsetup(&self) -> Cryptsetup {
        // kms looks for dmsetup in the folder of the image.
        Cryptsetup::new()
            .with_search_path(self.image.beside(""))
            .with_sysfs(Sysfs::at(&self.sys, self.sys.join("nodes")))
    }

    fn path(&self) -> PathBuf {
        self.image.path().canonicalize().unwrap()
    }

    /// The actions that cryptsetup was called for.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.sys.join("calls")).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }
}

fn osd() -> MappingName {
    MappingName::new("osd").unwrap()
}

async fn refused(device: &Device) -> Error {
    let error = device.open(&osd(), &kek()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("osd") && text.contains("image"), "{text}");
    error
}

#[tokio::test]
async fn a_closed_device_is_opened_and_an_open_one_is_left_alone() {
    let machine = Machine::new();
    let device = machine.device("");
    assert!(!device.is_open(&osd()).unwrap());
    assert_eq!(device.open(&osd(), &kek()).await.unwrap(), Opened::Done);
    assert!(device.is_open(&osd()).unwrap());
    assert_eq!(device.open(&osd(), &kek()).await.unwrap(), Opened::Already);
    assert_eq!(machine.calls(), ["open"]);

    let mapping = Mapping::new(device.cryptsetup().clone(), osd());
    let status = mapping.status().unwrap().unwrap();
    assert_eq!((status.bytes, status.devices, status.stale), (4096, vec!["loop0".to_owned()], false));
    assert_eq!((status.uuid.as_str(), status.kernel_name.as_str()), (DM_UUID, "dm-0"));
    mapping.resize().await.unwrap();
    mapping.close().await.unwrap();
    assert_eq!(machine.calls(), ["open", "resize", "close"]);
    assert_eq!(mapping.status().unwrap(), None);
    for error in [mapping.close().await.unwrap_err(), mapping.resize().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("osd"), "{error}");
    }
}

#[tokio::test]
async fn a_close_that_did_nothing_is_no_close() {
    let machine = Machine::new();
    let device = machine.device("[ $1 = close ] && exit 0");
    device.open(&osd(), &kek()).await.unwrap();
    let error = Mapping::new(device.cryptsetup().clone(), osd()).close().await.unwrap_err();
    assert!(error.to_string().contains("the kernel still has it"), "{error}");
}

#[tokio::test]
async fn a_name_that_is_another_devices_is_refused() {
    let other = Image::blank();
    let cases = [
        (DM_UUID, other.path(), "of another device"),
        ("CRYPT-LUKS2-ffffffffffffffffffffffffffffffff-osd", PathBuf::new(), "formatted again"),
        ("LVM-abcdef", PathBuf::new(), "cryptsetup did not create"),
        ("", PathBuf::new(), "cryptsetup did not create"),
    ];
    for (uuid, on, what) in cases {
        let machine = Machine::new();
        let on = if on.as_os_str().is_empty() { machine.path() } else { on };
        machine.mapped(uuid, 8, Some(&on), true);
        let device = machine.device("");
        let error = refused(&device).await;
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(what), "{error}");
        assert!(device.is_open(&osd()).is_err());
        assert_eq!(machine.calls(), [""; 0]);
        let closing = Mapping::new(device.cryptsetup().clone(), osd()).close().await;
        assert_eq!(closing.is_ok(), uuid.starts_with("CRYPT"));
    }
}

#[tokio::test]
async fn a_stale_mapping_is_replaced() {
    // The device below has gone; the mapping has no table; the mapping has no node.
    for (sectors, below, node) in [(8, false, true), (0, true, true), (8, true, false)] {
        let machine = Machine::new();
        let path = machine.path();
        machine.mapped(DM_UUID, sectors, below.then_some(path.as_path()), node);
        let device = machine.device("");
        assert!(!device.is_open(&osd()).unwrap());
        assert_eq!(device.open(&osd(), &kek()).await.unwrap(), Opened::Replaced);
        assert_eq!(machine.calls(), ["close", "open"]);
    }
}

#[tokio::test]
async fn force_is_used_only_where_there_is_nothing_to_lose() {
    for (below, replaced) in [(false, true), (true, false)] {
        let machine = Machine::new();
        let path = machine.path();
        machine.mapped(DM_UUID, 8, below.then_some(path.as_path()), false);
        machine.image.script(
            "dmsetup",
            &format!("sys={0}\necho $* >> $sys/calls; rm -r $sys/block/dm-0", machine.sys.display()),
        );
        let device = machine.device("[ $1 = close ] && { echo in use >&2; exit 5; }");
        if replaced {
            assert_eq!(device.open(&osd(), &kek()).await.unwrap(), Opened::Replaced);
            assert_eq!(machine.calls(), ["close", "remove --force -- osd", "open"]);
        } else {
            let error = refused(&device).await;
            assert!(error.to_string().contains("cannot be removed"), "{error}");
            assert_eq!(machine.calls(), ["close"]);
        }
    }
}

#[tokio::test]
async fn what_a_program_that_hangs_has_half_opened_is_closed() {
    let machine = Machine::new();
    let hang = "[ $1 = open ] && { cp -r $sys/../staged $sys/block/dm-0; exec sleep 1000; }";
    let device = Device::new(
        machine.device(hang).cryptsetup().clone().with_limit(Duration::from_secs(2)),
        machine.image.path(),
    );
    let error = refused(&device).await;
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("hostIPC") && error.to_string().contains("closed again"), "{error}");
    assert_eq!(machine.calls(), ["open", "close"]);
    // The next try meets no obstacle.
    assert_eq!(machine.device("").open(&osd(), &kek()).await.unwrap(), Opened::Done);
}

#[tokio::test]
async fn what_the_program_refuses_is_told_apart() {
    let machine = Machine::new();
    assert_eq!(machine.device("exit 2").open(&osd(), &kek()).await.unwrap(), Opened::WrongKey);
    let busy = refused(&machine.device("exit 5")).await;
    assert_eq!(busy.kind(), ErrorKind::Conflict);
    // Another process opens it at the same moment.
    let raced = machine.device("cp -r $sys/../staged $sys/block/dm-0; touch $sys/nodes/osd; exit 5");
    assert_eq!(raced.open(&osd(), &kek()).await.unwrap(), Opened::Already);
    fs::remove_dir_all(machine.sys.join("block/dm-0")).unwrap();

    let nodeless = refused(
        &machine.device("rm -r $sys/nodes; mkdir $sys/nodes; cp -r $sys/../staged $sys/block/dm-0; exit 0"),
    )
    .await;
    assert!(nodeless.to_string().contains("/dev/mapper"), "{nodeless}");
    fs::remove_dir_all(machine.sys.join("block/dm-0")).unwrap();

    fs::remove_dir(machine.sys.join("class/misc/device-mapper")).unwrap();
    let script = "[ $1 = --version ] && { echo cryptsetup 2.6.1; exit 0; }; exit 1";
    let no_mapper = refused(&machine.device(script)).await;
    assert_eq!(no_mapper.kind(), ErrorKind::Unsupported);
    assert!(no_mapper.to_string().contains("dm_mod"), "{no_mapper}");

    fs::remove_dir_all(machine.sys.join("block")).unwrap();
    let blind = refused(&machine.device("")).await;
    assert!(blind.to_string().contains("cannot be read"), "{blind}");
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_real_device_is_opened_or_it_is_said_why_not() {
    let current = kek();
    let image = Image::luks2(&current);
    let device = image.device();
    let name = MappingName::new(format!("kms-luks-test-{}", std::process::id())).unwrap();
    if Path::new("/sys/class/misc/device-mapper").exists() && rustix::process::geteuid().is_root() {
        assert_eq!(device.open(&name, &kek()).await.unwrap(), Opened::WrongKey);
        assert_eq!(device.open(&name, &current).await.unwrap(), Opened::Done);
        assert_eq!(device.open(&name, &current).await.unwrap(), Opened::Already);
        let mapping = Mapping::new(Cryptsetup::new(), name);
        mapping.resize().await.unwrap();
        mapping.close().await.unwrap();
    } else {
        let error = device.open(&name, &current).await.unwrap_err();
        assert!(error.to_string().contains("image"), "{error}");
        if !Path::new("/sys/class/misc/device-mapper").exists() {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
    }
}
