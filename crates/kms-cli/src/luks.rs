//! The program `cryptsetup`, as this process wants it.

use kms_luks::Cryptsetup;

use crate::environment::Environment;

/// Where device-mapper is to do without udev: in an initramfs, say.
const WITHOUT_UDEV: &str = "DM_DISABLE_UDEV";

/// The `cryptsetup` of the search path, or of the usual folders.
pub(crate) fn cryptsetup(environment: &Environment) -> Cryptsetup {
    let mut cryptsetup = Cryptsetup::new();
    if let Some(path) = environment.get("PATH") {
        cryptsetup = cryptsetup.with_search_path(path);
    }
    if let Some(value) = environment.get(WITHOUT_UDEV) {
        cryptsetup = cryptsetup.with_env(WITHOUT_UDEV, value);
    }
    cryptsetup
}
