//! Confirmation of commands whose effects can't be undone: a prompt on the terminal, or
//! `--yes`. Without a terminal and without `--yes` the command is refused, so that a
//! script never runs it by accident.

use std::fmt::Display;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

/// The option of every command that asks for confirmation.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Confirmation {
    /// Do not ask for confirmation; required when there is no terminal to ask on
    #[arg(long, short = 'y')]
    yes: bool,
}

impl Confirmation {
    /// Prints the consequences and the question on standard error and waits for the answer. An
    /// error unless the answer is yes or `--yes` was given.
    pub fn require(self, consequences: impl Display, question: &str) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        let (input, mut output) = (io::stdin(), io::stderr());
        if !input.is_terminal() || !output.is_terminal() {
            anyhow::bail!(
                "{consequences}\nConfirmation is required, and there is no terminal to ask on: add --yes"
            );
        }
        write!(output, "{consequences}\n{question} [y/N] ")?;
        output.flush()?;
        let mut answer = String::new();
        input.lock().read_line(&mut answer)?;
        anyhow::ensure!(
            matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"),
            "not confirmed; nothing was changed"
        );
        Ok(())
    }
}
