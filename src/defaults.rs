//! The default values of all settings. Their only source is `config/default.toml`, which is
//! compiled in.

use serde::de::DeserializeOwned;

/// The text of `config/default.toml`: every key with its documentation and its default.
pub const TEXT: &str = include_str!("../config/default.toml");

/// The defaults of a section such as `database`.
///
/// # Panics
///
/// If the section does not exist or is not a valid `T`; a test of the settings excludes
/// that.
pub fn section<T: DeserializeOwned>(name: &str) -> T {
    let mut sections: toml::Table = TEXT.parse().expect("config/default.toml is valid TOML");
    let section = sections.remove(name).expect("config/default.toml has the section");
    section.try_into().expect("the defaults in config/default.toml are valid")
}
