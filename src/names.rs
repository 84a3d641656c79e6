//! Names that people choose and read. A name must not be mistaken for another one, or change how
//! the text around it is displayed.

use unicode_general_category::{GeneralCategory, get_general_category};

/// Whether a character has no glyph of its own, but affects how the text around it is displayed:
/// control and format characters (Unicode Cc and Cf), line and paragraph separators (Zl and Zp).
pub fn is_invisible(c: char) -> bool {
    !c.is_ascii_graphic()
        && matches!(
            get_general_category(c),
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
        )
}

/// Whether a text has at most `longest` characters, none of them an [invisible](is_invisible) one.
pub fn is_plain(text: &str, longest: usize) -> bool {
    text.chars().count() <= longest && !text.chars().any(is_invisible)
}

/// A text that changes nothing about how the text around it is displayed: line breaks and tabs
/// become blanks, and other [invisible](is_invisible) characters U+FFFD.
pub fn inert(text: &str) -> String {
    let inert = |c| match c {
        '\n' | '\r' | '\t' => ' ',
        c if is_invisible(c) => '\u{fffd}',
        c => c,
    };
    text.chars().map(inert).collect()
}

/// Whether a text can be a name: [plain](is_plain), not empty, without whitespace at either end,
/// without letters that are displayed as nothing or as a blank, and not of dots only, as those are
/// that stand for directories in paths.
pub fn is_name(text: &str, longest: usize) -> bool {
    !text.trim_matches('.').is_empty()
        && text.trim() == text
        && is_plain(text, longest)
        && !text.chars().any(is_filler)
}

/// Whether a character is a letter or a mark by its category, and has no glyph: the fillers and the
/// default ignorable marks of Unicode that no text needs, and the empty pattern of Braille.
const fn is_filler(c: char) -> bool {
    matches!(
        c,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'
            ..='\u{180f}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}'
    )
}

/// Whether one text is probably a misspelling of the other: few characters differ or are swapped, and
/// both have at least three. Stricter than [`closest`].
pub fn is_misspelling(one: &str, other: &str) -> bool {
    let (one, other) = (one.to_lowercase(), other.to_lowercase());
    let shorter = one.chars().count().min(other.chars().count());
    shorter >= 3 && strsim::osa_distance(&one, &other) <= (shorter / 4).max(1)
}

/// The candidate that a misspelt name probably means; `None` if none is similar.
pub fn closest<'a>(
    misspelt: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    /// From 0 to 1.
    const SIMILAR: f64 = 0.8;
    let misspelt = misspelt.to_lowercase();
    let similarity = |one: &str| strsim::jaro_winkler(&one.to_lowercase(), &misspelt);
    let similar = candidates.into_iter().map(|one| (similarity(one), one));
    let similar = similar.filter(|(similarity, _)| *similarity >= SIMILAR);
    similar.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, closest)| closest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_of_four_categories() {
        for c in ['\0', '\n', '\u{7f}', '\u{85}', '\u{ad}', '\u{200b}', '\u{202e}', '\u{2028}'] {
            assert!(is_invisible(c), "{c:?}");
        }
        for c in [' ', 'a', '~', '\u{a0}', 'é', '東', '\u{301}', '\u{fffd}'] {
            assert!(!is_invisible(c), "{c:?}");
        }
    }

    #[test]
    fn a_name_can_be_seen_and_has_no_blanks_around_it() {
        for bad in ["", " ", "a ", "\u{a0}a", "abcd", ".", "..", "...", "\u{3164}", "a\u{34f}"] {
            assert!(!is_name(bad, 3), "{bad:?}");
        }
        assert!(is_name("a b", 3) && is_name("..a", 3) && is_plain(" ", 1) && is_plain("", 0));
    }

    #[test]
    fn a_misspelling_differs_in_few_characters() {
        for (one, other) in [("eu-west", "eu-wset"), ("prod", "prd"), ("Region", "reigon")] {
            assert!(is_misspelling(one, other), "{one} {other}");
        }
        for (one, other) in [("eu-west", "us-east"), ("prod", "dev"), ("v1", "v2"), ("a", "")] {
            assert!(!is_misspelling(one, other), "{one} {other}");
        }
    }

    #[test]
    fn the_closest_name_is_similar() {
        let names = ["gatewayId", "type", "limit"];
        assert_eq!(closest("gateway", names), Some("gatewayId"));
        assert_eq!(closest("Gatewayid", names), Some("gatewayId"));
        assert_eq!(closest("limits", names), Some("limit"));
        assert_eq!(closest("x", names), None);
    }
}
