//! Progress on standard error; shown only if that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A line that is updated in place.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::default_spinner());
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self(bar)
    }

    /// Begins a step of unknown length.
    pub(crate) fn step(&self, what: impl Into<String>) {
        self.0.set_style(ProgressStyle::default_spinner());
        self.0.set_message(what.into());
    }

    /// Begins a step of a known length.
    pub(crate) fn bounded_step(&self, what: impl Into<String>, length: u64) {
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {msg} {wide_bar} {human_pos}/{human_len}")
        {
            self.0.set_style(style);
        }
        self.0.set_length(length);
        self.0.set_position(0);
        self.0.set_message(what.into());
    }

    /// Sets the position within the current step.
    pub(crate) fn at(&self, position: u64) {
        self.0.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
