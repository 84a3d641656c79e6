//! The output of a program, of which only the end is kept.

use std::borrow::Cow;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How much of the end is kept.
const KEPT: usize = 4096;
/// How much is read at a time.
const CHUNK: usize = 64 * 1024;

/// The end of what a program writes.
#[derive(Debug, Default)]
pub(super) struct Output(Vec<u8>);

impl Output {
    /// Reads a pipe to its end, so that the program is never blocked.
    pub(super) async fn read(&mut self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut chunk = vec![0; CHUNK];
        while let Ok(length) = pipe.read(&mut chunk).await
            && length > 0
        {
            self.add(&chunk[..length]);
        }
    }

    fn add(&mut self, chunk: &[u8]) {
        let chunk = &chunk[chunk.len().saturating_sub(KEPT)..];
        let excess = (self.0.len() + chunk.len()).saturating_sub(KEPT);
        self.0.drain(..excess);
        self.0.extend_from_slice(chunk);
    }

    /// The last bytes that were written, at most `KEPT`.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The end as text. The log escapes control characters.
    pub(super) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_is_kept() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(u32::to_be_bytes).collect();
        let mut output = Output::default();
        output.read(Some(text.as_slice())).await;
        assert_eq!(output.bytes(), &text[text.len() - KEPT..]);
    }
}
