//! Two processes use one device, and a killed process leaves a cryptsetup behind.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use kms_core::{ErrorKind, Kek};
use kms_luks::{Added, Cryptsetup, Device, Slot};

use crate::common::{Image, kek, slots};

/// The environment variable with the folder of the other process.
const FOLDER: &str = "KMS_LUKS_TEST_FOLDER";

/// The body of the other process: it takes the lock, adds a slot through a script, and waits to be killed.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn the_other_process() {
    #[expect(clippy::disallowed_methods, reason = "the variable marks this process as the other one")]
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let read = |name: &str| Kek::parse(fs::read_to_string(folder.join(name)).unwrap()).unwrap();
    let device = Device::new(Cryptsetup::new().with_program(folder.join("script")), folder.join("image"));
    let _lock = device.lock().await.unwrap();
    device.add(Some(Slot::CURRENT), &read("current"), Slot::OTHER, &read("new")).await.unwrap();
    panic!("it should have been killed");
}

/// Starts this program again as the other process.
fn other_process(image: &Image) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "locks::the_other_process", "--ignored"])
        .env(FOLDER, image.beside(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn one_process_at_a_time_and_the_orphan_of_a_killed_one_is_waited_for() {
    let (current, new) = (kek(), kek());
    let image = Image::luks2(&current);
    fs::write(image.beside("current"), current.expose_secret_text().unwrap()).unwrap();
    fs::write(image.beside("new"), new.expose_secret_text().unwrap()).unwrap();
    let (started, go_on) = (image.fifo("started"), image.fifo("go-on"));
    // The script reports that it runs, and waits before it becomes cryptsetup.
    image.script(
        "script",
        &format!("echo on > {}; read line < {}; exec cryptsetup \"$@\"", started.display(), go_on.display()),
    );
    let mut other = other_process(&image);
    let mut line = String::new();
    BufReader::new(fs::File::open(&started).unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "on\n");

    // The other process holds the device while it lives.
    let impatient = image.device_by(Cryptsetup::new().with_limit(Duration::from_millis(50)));
    let before = image.bytes();
    for error in [
        impatient.lock().await.unwrap_err(),
        impatient.add(None, &current, Slot::new(2).unwrap(), &new).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("another process is at work"), "{error}");
    }
    assert!(image.bytes() == before);
    // Tests of a slot need no lock.
    assert!(image.device().opens(None, &current).await.unwrap());

    // The process is killed; its cryptsetup lives on.
    other.kill().unwrap();
    other.wait().unwrap();
    let error = impatient.lock().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("an earlier run"), "{error}");

    // The next run waits for that cryptsetup, and finds its result.
    let device = image.device();
    let (lock, ()) = tokio::join!(device.lock(), async { fs::write(&go_on, "\n").unwrap() });
    // Take the lock first: without it the slots prove nothing, since that cryptsetup may still be at work.
    let lock = lock.unwrap();
    assert_eq!(slots(&device).await, [0, 1]);
    assert!(image.opens(1, &new));
    drop(lock);
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it luks"]
async fn a_lock_is_held_over_many_steps_and_given_up_at_its_end() {
    let (current, new) = (kek(), kek());
    let image = Image::luks2(&current);
    let device = image.device();
    let lock = device.lock().await.unwrap();
    // Locked by us: our own steps meet no conflict.
    assert_eq!(device.clone().add(None, &current, Slot::OTHER, &new).await.unwrap(), Added::Done);
    let proof = device.verify(Slot::OTHER, &new).await.unwrap();
    for second in [device.clone(), image.device()] {
        assert_eq!(second.lock().await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    // Locked by another user of the same image.
    let error = image.device().kill(Slot::CURRENT, &proof, &new).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    device.kill(Slot::CURRENT, &proof, &new).await.unwrap();
    drop(lock);
    image.device().lock().await.unwrap();
}
