//! Files in the age format: the encryption and the decryption of one file.

use std::{cell::RefCell, fs::File, io::BufReader, path::Path};

use age::{Decryptor, Encryptor, Identity, Recipient, stream::StreamReader};
use kms_core::{Error, Result};

use crate::{
    Recipients,
    error::{at, not_decrypted, not_encrypted, not_read},
    file_key::{Noted, Noting},
};

/// A file that is being decrypted.
pub(crate) type Plain = StreamReader<BufReader<File>>;

/// An encryption to these recipients, and the key that reads its file back.
pub(crate) fn encryptor(recipients: &Recipients) -> Result<(Encryptor, Noted)> {
    let noted = RefCell::new(None);
    let noting: Vec<_> = recipients.iter().map(|recipient| Noting { recipient, noted: &noted }).collect();
    let encryptor = Encryptor::with_recipients(noting.iter().map(|recipient| recipient as &dyn Recipient));
    let encryptor = encryptor.map_err(not_encrypted)?;
    let file_key = noted.take().ok_or_else(|| Error::config("there are no recipients"))?;
    Ok((encryptor, Noted(file_key)))
}

/// Opens a file and decrypts it.
pub(crate) fn open(path: &Path, identities: &[&dyn Identity]) -> Result<Plain> {
    let file = File::open(path).map_err(not_read(path))?;
    let stream = Decryptor::new_buffered(BufReader::new(file))
        .and_then(|decryptor| decryptor.decrypt(identities.iter().copied()));
    stream.map_err(not_decrypted).map_err(at(path))
}
