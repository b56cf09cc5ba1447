//! What a command reads from and writes to, handed in so that tests see all of it.
//!
//! Entry point: [`Io`]; [`Io::process`] is the real one.

use std::io::{BufRead, IsTerminal, Write};

use crate::failure::CliError;

/// The surroundings of a command.
pub struct Io<'a> {
    /// Standard input.
    pub stdin: Box<dyn BufRead + 'a>,
    /// Data.
    pub stdout: Box<dyn Write + 'a>,
    /// Everything that is said.
    pub stderr: Box<dyn Write + 'a>,
    /// An environment variable; an empty one counts as absent.
    pub env: Box<dyn Fn(&str) -> Option<String> + 'a>,
    /// Whether a person types standard input.
    pub stdin_is_terminal: bool,
    /// Whether a terminal interprets standard output.
    pub stdout_is_terminal: bool,
    /// Whether words on standard error may have a colour.
    pub colour: bool,
}

impl Io<'_> {
    /// Those of this process. Colour follows the terminal and `NO_COLOR`.
    pub fn process() -> Io<'static> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let stderr = std::io::stderr();
        Io {
            colour: stderr.is_terminal() && env("NO_COLOR").is_none(),
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stdin: Box::new(std::io::BufReader::new(std::io::stdin())),
            stdout: Box::new(std::io::stdout()),
            stderr: Box::new(stderr),
            env: Box::new(env),
        }
    }

    /// Writes data, which ends with a line end if it is text.
    pub(crate) fn data(&mut self, text: &str) -> Result<(), CliError> {
        self.bytes(text.as_bytes())
    }

    /// Writes data as it is.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        let written = self.stdout.write_all(bytes).and_then(|()| self.stdout.flush());
        written.map_err(CliError::Output)
    }

    /// Says a line. Nobody may be listening; that is no failure.
    pub(crate) fn say(&mut self, line: &str) {
        let _said = writeln!(self.stderr, "{line}").and_then(|()| self.stderr.flush());
    }
}
