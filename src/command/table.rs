//! Tables laid out for the terminal, or for 80 columns without one. In a table
//! that is too wide, each row takes several lines, whose columns are aligned with the
//! header's. Nothing is truncated and no word is broken.

use unicode_width::UnicodeWidthStr as _;

use super::colour::{Meaning, is_coloured};
use super::text::{INDENT, clean, width, wrapped};

/// The space between two columns.
const GAP: &str = "  ";

/// Headers of columns whose words have a meaning.
const STATES: [&str; 4] = ["status", "state", "now", "result"];

/// A table without borders; `nothing` if there are no rows. Control characters in cells
/// are replaced. States are coloured on a terminal.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    nothing: &str,
) -> String {
    let rows: Vec<[String; N]> = rows.into_iter().map(|row| row.map(|cell| clean(&cell))).collect();
    if rows.is_empty() {
        return nothing.to_owned();
    }
    let mut lines = vec![header.map(str::to_uppercase)];
    lines.extend(rows);
    let is_state = header.map(|name| STATES.contains(&name) && is_coloured());
    coloured(&lines, width(), is_state)
}

#[cfg(test)]
fn laid_out<const N: usize>(rows: &[[String; N]], width: usize) -> String {
    coloured(rows, width, [false; N])
}

fn coloured<const N: usize>(rows: &[[String; N]], width: usize, is_state: [bool; N]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].width()).max().unwrap_or_default()
    });
    let groups = groups(&widths, width);
    let mut lines = Vec::new();
    for row in rows {
        for (number, group) in groups.iter().enumerate() {
            let indent = if number == 0 { "" } else { INDENT };
            let (mut line, mut painted) = (indent.to_owned(), indent.to_owned());
            for column in group.clone() {
                if column > group.start {
                    line.push_str(GAP);
                    painted.push_str(GAP);
                }
                let cell = &row[column];
                let meaning = Meaning::of(cell).filter(|_| is_state[column]);
                line.push_str(cell);
                painted.push_str(&meaning.map_or_else(|| cell.clone(), |it| it.paint(cell)));
                let padding = " ".repeat(widths[column] - cell.width());
                line.push_str(&padding);
                painted.push_str(&padding);
            }
            let line = line.trim_end();
            let wrapped = wrapped(line, width);
            // A line that had to be wrapped has no colours.
            let is_whole = wrapped == line;
            lines.push(if is_whole { painted.trim_end().to_owned() } else { wrapped });
        }
    }
    lines.join("\n")
}

/// The columns on each line of a row: as many as fit.
fn groups(widths: &[usize], width: usize) -> Vec<std::ops::Range<usize>> {
    let mut groups = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (column, wanted) in widths.iter().enumerate() {
        let gap = if column == start { 0 } else { GAP.len() };
        if column > start && used + gap + wanted > width {
            groups.push(start..column);
            (start, used) = (column, INDENT.len() + wanted);
        } else {
            used += gap + wanted;
        }
    }
    groups.push(start..widths.len());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<const N: usize>(rows: &[[&str; N]]) -> Vec<[String; N]> {
        rows.iter().map(|row| row.map(str::to_owned)).collect()
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(table(["a"], [], "none"), "none");
    }

    #[test]
    fn a_table_that_fits_has_a_line_for_each_row() {
        let text = laid_out(&rows(&[["A", "LONG"], ["one", "x"], ["b", "日本"]]), 9);
        assert_eq!(text, "A    LONG\none  x\nb    日本");
    }

    #[test]
    fn a_table_that_is_too_wide_is_folded_and_stays_aligned() {
        let text = laid_out(&rows(&[["A", "BB", "C"], ["one", "two", "three"]]), 10);
        assert_eq!(text, "A    BB\n    C\none  two\n    three");
    }

    #[test]
    fn no_word_is_broken_and_no_line_is_longer_than_it_must_be() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..2000 {
            let width = random.usize(20..120);
            let word = |random: &mut fastrand::Rng| {
                let length = random.usize(1..=width + 5);
                (0..length).map(|_| random.alphanumeric()).collect::<String>()
            };
            let cell = |random: &mut fastrand::Rng| {
                let words: Vec<String> = (0..random.usize(1..4)).map(|_| word(random)).collect();
                words.join(" ")
            };
            let rows: Vec<[String; 4]> = (0..random.usize(1..5))
                .map(|_| std::array::from_fn(|_| cell(&mut random)))
                .collect();
            let text = laid_out(&rows, width);
            let words: Vec<&str> = rows.iter().flatten().flat_map(|cell| cell.split(' ')).collect();
            let found: Vec<&str> = text.split_whitespace().collect();
            assert_eq!(found, words, "seed {seed}");
            for line in text.lines().filter(|line| line.width() > width) {
                let alone = line.split_whitespace().count() == 1;
                assert!(alone, "seed {seed}: {line:?} is wider than {width}");
            }
        }
    }
}
