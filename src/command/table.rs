//! Tables laid out for the terminal, or for 80 columns without one. In a table
//! that is too wide, each row takes several lines, whose columns are aligned with the
//! header's. Nothing is truncated and no word is broken.
//!
//! A [`list`] on a terminal leaves out its least important columns instead, if the others then fit.

use std::ops::Range;

use unicode_width::UnicodeWidthStr as _;

use super::colour::{Meaning, is_coloured};
use super::formats::Format;
use super::text::{INDENT, clean, terminal_width, width, wrapped};

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
    list(header, rows, &[], nothing)
}

/// A table that may leave out columns, the first one of `least` first, if it is too wide for the
/// terminal. With the format `wide`, and without a terminal, it has all columns.
pub fn list<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    least: &[&str],
    nothing: &str,
) -> String {
    let mut lines = vec![header.map(str::to_uppercase).to_vec()];
    lines.extend(rows.into_iter().map(|row| row.map(|cell| clean(&cell)).to_vec()));
    if lines.len() == 1 {
        return nothing.to_owned();
    }
    let width = width();
    let terminal = terminal_width(std::io::stdout());
    let may_leave_out = terminal.is_some() && Format::chosen() == Format::Table;
    let left_out = if may_leave_out { leave_out(&mut lines, least, width) } else { Vec::new() };
    let text = coloured(&lines, width, is_coloured());
    if left_out.is_empty() {
        return text;
    }
    let names = left_out.join(", ");
    let note = format!("Not shown in this width: {names}. --output wide shows all columns.");
    format!("{text}\n\n{}", wrapped(&note, width))
}

/// Removes columns until each row fits on a line, and returns their names. None if the other columns
/// don't fit either.
fn leave_out(lines: &mut Vec<Vec<String>>, least: &[&str], width: usize) -> Vec<String> {
    let mut fewer = lines.clone();
    let mut left_out = Vec::new();
    let mut least = least.iter().map(|name| name.to_uppercase());
    while groups(&widths(&fewer), width).len() > 1 {
        let Some(name) = least.next() else { return Vec::new() };
        if let Some(column) = fewer[0].iter().position(|known| *known == name) {
            for line in &mut fewer {
                line.remove(column);
            }
            left_out.push(name);
        }
    }
    *lines = fewer;
    left_out
}

/// The width of each column.
fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = 0..rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].width()).max();
    columns.map(|column| width(column).unwrap_or_default()).collect()
}

/// The lines of a table, whose first row is the header.
fn coloured(rows: &[Vec<String>], width: usize, is_coloured: bool) -> String {
    let widths = widths(rows);
    let groups = groups(&widths, width);
    let is_state = |column: usize| {
        is_coloured && STATES.iter().any(|name| rows[0][column].eq_ignore_ascii_case(name))
    };
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
                let meaning = Meaning::of(cell).filter(|_| is_state(column));
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
fn groups(widths: &[usize], width: usize) -> Vec<Range<usize>> {
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

    fn rows<const N: usize>(rows: &[[&str; N]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect()
    }

    fn laid_out(rows: &[Vec<String>], width: usize) -> String {
        coloured(rows, width, false)
    }

    #[test]
    fn columns_are_left_out_only_if_the_others_fit() {
        let all = rows(&[["A", "BB", "C"], ["one", "two", "three"]]);
        let fitted = |least: &[&str], width| {
            let mut lines = all.clone();
            let left_out = leave_out(&mut lines, least, width).join(" ");
            (left_out, laid_out(&lines, width))
        };
        let shown = |left_out: &str, text: &str| (left_out.to_owned(), text.to_owned());
        assert_eq!(fitted(&["c", "bb"], 15), shown("", "A    BB   C\none  two  three"));
        assert_eq!(fitted(&["c", "bb"], 14), shown("C", "A    BB\none  two"));
        assert_eq!(fitted(&["c", "bb"], 7), shown("C BB", "A\none"));
        let folded = "A\n    BB\n    C\none\n    two\n    three";
        assert_eq!(fitted(&["c"], 7), shown("", folded));
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
            let rows: Vec<Vec<String>> = (0..random.usize(1..5))
                .map(|_| (0..4).map(|_| cell(&mut random)).collect())
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
