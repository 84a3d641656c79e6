//! The lines of server-sent events (HTML Living Standard, section 9.2).

use std::collections::VecDeque;

/// A field of the stream that matters here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// The position after the message.
    Id(String),
    /// The message.
    Data(String),
    /// A sign of life.
    Comment,
}

/// The lines of a stream.
pub(super) struct Lines {
    longest: usize,
    bytes: Vec<u8>,
    fields: VecDeque<Field>,
}

impl Lines {
    /// Lines of at most `longest` bytes.
    pub(super) fn new(longest: usize) -> Self {
        Self { longest, bytes: Vec::new(), fields: VecDeque::new() }
    }

    /// Adds bytes; an error if a line is too long.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        let new = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        // What was there before has no line break.
        let end = self.bytes[new..].iter().rposition(|byte| *byte == b'\n');
        let Some(end) = end.map(|end| new + end) else {
            if self.bytes.len() > self.longest {
                return Err("the service sent a line that is too long");
            }
            return Ok(());
        };
        let rest = self.bytes.split_off(end + 1);
        let whole = std::mem::replace(&mut self.bytes, rest);
        for line in String::from_utf8_lossy(&whole).lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match (name, line) {
                ("id", _) => self.fields.push_back(Field::Id(value.to_owned())),
                ("data", _) => self.fields.push_back(Field::Data(value.to_owned())),
                ("", line) if !line.is_empty() => self.fields.push_back(Field::Comment),
                _ => {}
            }
        }
        Ok(())
    }

    /// The next field that is complete.
    pub(super) fn next(&mut self) -> Option<Field> {
        self.fields.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_across_chunks() {
        let mut lines = Lines::new(1024);
        for chunk in ["retry: 2000\n: con", "nected\n\nevent: gap\nid: a\nda", "ta: {\"x\":1}\n\n"]
        {
            lines.add(chunk.as_bytes()).unwrap();
        }
        assert_eq!(lines.next(), Some(Field::Comment));
        assert_eq!(lines.next(), Some(Field::Id("a".to_owned())));
        assert_eq!(lines.next(), Some(Field::Data("{\"x\":1}".to_owned())));
        assert_eq!(lines.next(), None);
        assert!(lines.add(&vec![b'x'; 1025]).is_err());
    }
}
