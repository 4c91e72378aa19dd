//! Asks the person at the terminal, also if standard input and output are files or pipes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
};

use kms_escrow::Person;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::progress::beside_bar;

/// The terminal of the process, whatever its streams are.
const TERMINAL: &str = "/dev/tty";
/// The longest answer, in bytes. A terminal passes on lines of 4095 bytes at most.
const MOST_BYTES: usize = 4096;

/// The person at the terminal of this process, who may be absent.
#[derive(Debug)]
pub(crate) struct AtTerminal;

impl Person for AtTerminal {
    fn confirm(&self, question: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        let other = no.map(|no| format!(", n: {no}")).unwrap_or_default();
        let answer = ask(&format!("{question} [y: {yes}{other}]"), Echo::On)?;
        Some(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    fn text(&self, question: &str) -> Option<String> {
        ask(question, Echo::On).map(|answer| answer.to_string())
    }

    fn secret(&self, question: &str) -> Option<Zeroizing<String>> {
        ask(question, Echo::Off)
    }
}

/// Whether the terminal shows what is typed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Echo {
    Off,
    On,
}

/// Asks a question. `None` if the process has no terminal, or if the person closes it.
fn ask(question: &str, echo: Echo) -> Option<Zeroizing<String>> {
    beside_bar(|| {
        let mut terminal = OpenOptions::new().read(true).write(true).open(TERMINAL).ok()?;
        let hidden = match echo {
            Echo::Off => Some(Hidden::begin(&terminal).ok()?),
            Echo::On => None,
        };
        write!(terminal, "the age plugin asks: {question}: ").ok()?;
        let line = read_line(&mut terminal);
        if hidden.is_some() {
            // The line break of the person was not shown either.
            writeln!(terminal).ok()?;
        }
        line.ok().flatten()
    })
}

/// Reads a line, without its end. `None` at the end of the input, and if it is too long or not text.
fn read_line(terminal: &mut File) -> io::Result<Option<Zeroizing<String>>> {
    // A buffer that grows would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MOST_BYTES));
    let mut byte = Zeroizing::new([0]);
    while bytes.len() < MOST_BYTES {
        if terminal.read(&mut *byte)? == 0 {
            return Ok(None);
        }
        match *byte {
            [b'\n'] => {
                let text = std::str::from_utf8(&bytes).ok();
                return Ok(text.map(|text| Zeroizing::new(text.to_owned())));
            }
            [byte] => bytes.push(byte),
        }
    }
    Ok(None)
}

/// A terminal that does not show what is typed. Dropping it restores the terminal.
struct Hidden {
    terminal: File,
    before: Termios,
}

impl Hidden {
    fn begin(terminal: &File) -> io::Result<Self> {
        let terminal = terminal.try_clone()?;
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        // What was typed before the question does not answer it.
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // The terminal has gone if this fails.
        let _gone = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
