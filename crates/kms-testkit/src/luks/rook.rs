//! Rook's rotation, as `docs/rook-behaviour.md` describes it (rook-behaviour §12.2), with Rook's calls of cryptsetup (rook-behaviour §8.8).

use kms_core::{Freshness, Kek, KeyName, KmsProvider, PutMode};

use super::{Image, image::CHEAP};

/// Rook's rotation of the KEK of one OSD, which can be stopped after each step.
#[derive(Debug)]
pub struct Rook<'a> {
    kms: &'a dyn KmsProvider,
    name: &'a KeyName,
    images: &'a [Image],
    steps: usize,
    limit: usize,
}

/// The rotation was stopped.
#[derive(Debug)]
struct Stopped;

impl<'a> Rook<'a> {
    /// Returns a rotation that has not begun.
    #[must_use]
    pub fn new(kms: &'a dyn KmsProvider, name: &'a KeyName, images: &'a [Image]) -> Self {
        Self { kms, name, images, steps: 0, limit: usize::MAX }
    }

    /// Runs to the end, and returns the number of steps: runs of cryptsetup that write, and the update of the KMS.
    pub async fn run(mut self) -> usize {
        self.rotate().await.expect("the rotation has no stop");
        self.steps
    }

    /// Stops after this number of steps. False if the rotation ended before.
    pub async fn run_steps(mut self, steps: usize) -> bool {
        self.limit = steps;
        self.rotate().await.is_err()
    }

    async fn rotate(&mut self) -> Result<(), Stopped> {
        let images = self.images;
        let stored = self.kms.get(self.name, Freshness::Fresh).await.expect("get the KEK");
        let current = stored.kek;
        for image in images {
            self.add(image, &current, &current, 1)?;
        }
        let new = Kek::generate().expect("a KEK");
        for image in images {
            self.kill(image, &current, 0)?;
            self.add(image, &current, &new, 0)?;
        }
        self.step()?;
        self.kms.put(self.name, &new, PutMode::Update(stored.version)).await.expect("update the KEK");
        let back = self.kms.get(self.name, Freshness::Fresh).await.expect("get the KEK");
        assert!(back.kek.ct_eq(&new), "Rook would give up here");
        for image in images {
            self.kill(image, &new, 1)?;
        }
        Ok(())
    }

    /// Counts the next step.
    fn step(&mut self) -> Result<(), Stopped> {
        if self.steps == self.limit {
            return Err(Stopped);
        }
        self.steps += 1;
        Ok(())
    }

    fn kill(&mut self, image: &Image, kek: &Kek, slot: u8) -> Result<(), Stopped> {
        self.step()?;
        let (key, slot) = (format!("--key-file={}", image.key_file(kek)), slot.to_string());
        let (code, said) = image.run(&["--verbose", &key, "luksKillSlot"], &[&slot]);
        assert!(code == 0 || said.contains(&format!("Keyslot {slot} is not active")), "{code}: {said}");
        Ok(())
    }

    fn add(&mut self, image: &Image, kek: &Kek, new: &Kek, slot: u8) -> Result<(), Stopped> {
        loop {
            self.step()?;
            let (key, to) = (format!("--key-file={}", image.key_file(kek)), format!("--key-slot={slot}"));
            let options = [&["--verbose", &key, &to][..], &CHEAP, &["luksAddKey"]].concat();
            let (code, said) = image.run(&options, &[&image.key_file(new)]);
            if code == 0 {
                return Ok(());
            }
            assert!(said.contains(&format!("Key slot {slot} is full")), "{code}: {said}");
            if self.ensure(image, new, slot)? {
                return Ok(());
            }
            self.kill(image, kek, slot)?;
        }
    }

    /// Changes the key of a slot to itself. False if the slot has another key.
    fn ensure(&mut self, image: &Image, kek: &Kek, slot: u8) -> Result<bool, Stopped> {
        self.step()?;
        let file = image.key_file(kek);
        let (key, to) = (format!("--key-file={file}"), format!("--key-slot={slot}"));
        let options = [&["--verbose", &key, &to][..], &CHEAP, &["luksChangeKey"]].concat();
        let (code, said) = image.run(&options, &[&file]);
        assert!(code == 0 || said.contains("No key available with this passphrase"), "{code}: {said}");
        Ok(code == 0)
    }
}
