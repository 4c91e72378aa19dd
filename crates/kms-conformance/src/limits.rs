//! KEKs of every size and of every kind of text are returned byte for byte.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_core::{ErrorKind, Kek, PutMode};

use super::{
    bench::{Bench, Stop, Verdict, kek_of, refused},
    cases,
};

/// Texts that a format or a program on the way may misread.
const TEXTS: &[&str] = &[
    "a passphrase with spaces",
    " a space at both ends ",
    "\ta tab at both ends\t",
    "\"double\" and 'single' quotes and `ticks`",
    r"back\slashes\n\u0041\\",
    "two\nlines",
    "two\r\nlines",
    "control characters: \u{1}\u{7f}\u{85}",
    "ünïcödé — 鍵 🔑 e\u{301} \u{202e}",
    "\u{feff}a byte order mark",
    r#"{"data":{"data":{"key":"value"}}}"#,
    r#"["a","list"]"#,
    "null",
    "true",
    "123",
    "1e400",
    "0",
    "=",
    "a+b/c==",
    "YWJj",
    "YWJj\n YWJj",
    "%41%20%00 $HOME ${HOME} $(id) {{ .Values.x }} %s",
    "<a href=\"x\">&amp;</a>",
    "key: value # comment",
    "- |\n  block",
    "-----BEGIN X-----\nYWJj\n-----END X-----",
    "../../etc/passwd",
    "vault:v1:abc",
];

cases![
    keks_of_every_size_come_back,
    keks_of_every_kind_of_text_come_back,
    a_kek_that_is_no_base64_is_refused_where_it_is_not_possible,
    a_kek_above_the_limit_is_refused_and_not_stored,
];

fn sized(bytes: usize) -> Kek {
    let text = "0123456789+/=abcdefghijklmnopqrstuvwxyz".chars().cycle().take(bytes).collect::<String>();
    kek_of(&text)
}

async fn comes_back(bench: &Bench, label: &str, what: &str, kek: &Kek) -> Verdict {
    let name = bench.name(label);
    let about = |stop| match stop {
        Stop::Fail(why) => Stop::Fail(format!("{what}: {why}")),
        Stop::Skip(why) => Stop::Skip(why),
    };
    bench.stored(&name, kek).await.map_err(about)?;
    bench.holds(&name, kek).await.map(drop).map_err(about)
}

async fn keks_of_every_size_come_back(bench: &Bench) -> Verdict {
    let largest = bench.capability().max_kek_bytes.min(Kek::MAX_BYTES);
    if bench.capability().base64_only {
        // These sizes have all three forms of the end of a base64 text, with every bit set somewhere.
        for size in [1, 2, 3, 15, 16, 17, 32, 127, 128, 129, 1024, largest / 4 * 3] {
            let bytes: Vec<u8> = (0..=u8::MAX).rev().cycle().take(size).collect();
            let kek = kek_of(&STANDARD.encode(bytes));
            comes_back(bench, &format!("size-{size}"), &format!("{size} decoded bytes"), &kek).await?;
        }
        return Ok(());
    }
    let sizes = [1, 2, 3, 4, 31, 32, 171, 172, 173, 512, 1024, 4096, Kek::MAX_BYTES];
    for size in sizes.into_iter().filter(|size| *size < largest).chain([largest]) {
        comes_back(bench, &format!("size-{size}"), &format!("{size} bytes"), &sized(size)).await?;
    }
    Ok(())
}

async fn keks_of_every_kind_of_text_come_back(bench: &Bench) -> Verdict {
    bench.need(!bench.capability().base64_only, "only base64 is kept")?;
    for (at, text) in TEXTS.iter().enumerate() {
        comes_back(bench, &format!("text-{at}"), &format!("{text:?}"), &kek_of(text)).await?;
    }
    Ok(())
}

async fn a_kek_that_is_no_base64_is_refused_where_it_is_not_possible(bench: &Bench) -> Verdict {
    bench.need(bench.capability().base64_only, "any text is kept")?;
    let name = bench.name("refused");
    let others = ["QUJ=", "QUI", "QUI==", "_-8=", "===="];
    for text in TEXTS.iter().chain(&others).filter(|text| STANDARD.decode(text).is_err()) {
        for mode in [PutMode::Create, PutMode::Overwrite] {
            let result = bench.provider().put(&name, &kek_of(text), mode).await;
            refused(&format!("put of {text:?}"), result, &[ErrorKind::ConfigInvalid])?;
        }
    }
    bench.absent(&name).await
}

async fn a_kek_above_the_limit_is_refused_and_not_stored(bench: &Bench) -> Verdict {
    let largest = bench.capability().max_kek_bytes;
    bench.need(largest < Kek::MAX_BYTES, "every KEK is within the limit")?;
    let name = bench.name("large");
    let result = bench.provider().put(&name, &sized(largest + 1), PutMode::Overwrite).await;
    refused("put", result, &[ErrorKind::ConfigInvalid])?;
    bench.absent(&name).await
}
