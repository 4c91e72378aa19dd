//! The key derivation of new slots.

use std::ffi::OsString;

use kms_core::{Error, Result};

/// The fewest iterations of PBKDF2 that cryptsetup accepts, and SP 800-132's floor.
const PBKDF2_FLOOR: u32 = 1000;
/// The lowest costs of Argon2 that cryptsetup accepts.
const ARGON2_PASSES: u32 = 4;
const ARGON2_MEMORY_KIB: u32 = 32;
/// The most threads that cryptsetup accepts.
const ARGON2_THREADS: u32 = 4;
/// 4 GiB, the most memory that cryptsetup accepts.
const ARGON2_MOST_MEMORY_KIB: u32 = 4 * 1024 * 1024;

/// A FIPS-approved hash for PBKDF2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Hash {
    /// SHA-256
    Sha256,
    /// SHA-512
    Sha512,
}

impl Hash {
    /// Its name in cryptsetup.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// The key derivation of new slots.
///
/// A key derivation slows down the guessing of passphrases. A KEK that kms makes has 1,024 random bits, which no
/// attacker guesses at any speed. So the default is the cheapest: a costly key derivation would only slow down the
/// start of OSDs, and need memory that a small node may not have (field-reports UP-75).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kdf {
    /// PBKDF2
    Pbkdf2 {
        /// The number of iterations, at least 1000.
        iterations: u32,
        /// The hash.
        hash: Hash,
    },
    /// Argon2id, for KEKs that a person has chosen
    Argon2id {
        /// Passes over the memory, 4 at least.
        passes: u32,
        /// Memory in KiB, from 32 to 4 GiB.
        memory_kib: u32,
        /// Threads, from 1 to 4.
        threads: u32,
    },
}

impl Default for Kdf {
    fn default() -> Self {
        Self::Pbkdf2 { iterations: PBKDF2_FLOOR, hash: Hash::Sha256 }
    }
}

impl Kdf {
    /// Checks the costs against the limits of cryptsetup.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` naming the cost that is out of range.
    pub fn check(self) -> Result<()> {
        let within = |what: &str, value: u32, least: u32, most: u32| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::config(format!(
                "{what} of the key derivation is {value}: set it to a value from {least} to {most}"
            )))
        };
        match self {
            Self::Pbkdf2 { iterations, hash: _ } => {
                within("iterations", iterations, PBKDF2_FLOOR, i32::MAX as u32)
            }
            Self::Argon2id { passes, memory_kib, threads } => {
                within("passes", passes, ARGON2_PASSES, i32::MAX as u32)?;
                within("memory in KiB", memory_kib, ARGON2_MEMORY_KIB, ARGON2_MOST_MEMORY_KIB)?;
                within("threads", threads, 1, ARGON2_THREADS)
            }
        }
    }

    /// The arguments of cryptsetup. They give all costs, so that cryptsetup never measures the machine: the costs of a
    /// large machine may be too high for a small one, and the measuring takes seconds.
    pub(crate) fn args(self) -> Vec<OsString> {
        let args = match self {
            Self::Pbkdf2 { iterations, hash } => vec![
                "--pbkdf".to_owned(),
                "pbkdf2".to_owned(),
                "--pbkdf-force-iterations".to_owned(),
                iterations.to_string(),
                "--hash".to_owned(),
                hash.as_str().to_owned(),
            ],
            Self::Argon2id { passes, memory_kib, threads } => vec![
                "--pbkdf".to_owned(),
                "argon2id".to_owned(),
                "--pbkdf-force-iterations".to_owned(),
                passes.to_string(),
                "--pbkdf-memory".to_owned(),
                memory_kib.to_string(),
                "--pbkdf-parallel".to_owned(),
                threads.to_string(),
            ],
        };
        args.into_iter().map(OsString::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_below_the_floor_are_refused() {
        assert!(Kdf::default().check().is_ok());
        let bad = [
            Kdf::Pbkdf2 { iterations: 999, hash: Hash::Sha256 },
            Kdf::Argon2id { passes: 3, memory_kib: 32, threads: 1 },
            Kdf::Argon2id { passes: 4, memory_kib: 31, threads: 1 },
            Kdf::Argon2id { passes: 4, memory_kib: 32, threads: 5 },
        ];
        for kdf in bad {
            assert!(kdf.check().unwrap_err().to_string().contains("set it to a value from"), "{kdf:?}");
        }
    }

    #[test]
    fn every_cost_is_an_argument() {
        let args = |kdf: Kdf| kdf.args().join(" ".as_ref()).into_string().unwrap();
        assert_eq!(args(Kdf::default()), "--pbkdf pbkdf2 --pbkdf-force-iterations 1000 --hash sha256");
        assert_eq!(
            args(Kdf::Argon2id { passes: 4, memory_kib: 32, threads: 1 }),
            "--pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 32 --pbkdf-parallel 1"
        );
    }
}
