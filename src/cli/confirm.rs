//! Confirmation of commands whose effects can't be undone: a question on the
//! terminal, or `--yes`. Without either the command is refused, so that a script
//! never does by accident what a person would have been asked about.

use std::fmt::Display;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

/// The option of every command that asks first.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Confirmation {
    /// Do not ask for confirmation; required when there is no terminal to ask on
    #[arg(long, short = 'y')]
    yes: bool,
}

impl Confirmation {
    /// States the consequences on standard error and asks the question. An error
    /// unless `--yes` was given or the answer is yes.
    pub(crate) fn require(self, consequences: impl Display, question: &str) -> anyhow::Result<()> {
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
