//! Asks before a command that can't be undone.

use std::io::{self, IsTerminal as _, Write as _};

use super::output::clean;

/// Asks a question on the terminal; anything but "y" or "yes" declines. Without a
/// terminal it is an error that names `--yes`.
pub(crate) fn confirm(question: &str) -> anyhow::Result<bool> {
    let (input, mut output) = (io::stdin(), io::stderr());
    if !input.is_terminal() || !output.is_terminal() {
        anyhow::bail!("{} Confirm it with --yes.", clean(question));
    }
    write!(output, "{} [y/N] ", clean(question))?;
    output.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
