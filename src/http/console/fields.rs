//! Fields of a form, with what was typed in them and, below each, what is wrong with it.

use data_encoding::HEXLOWER;
use maud::{Markup, html};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::super::problem::{HandlerResult, Problem};
use super::pairs::Pairs;
use super::text::sentences;
use crate::api::{Code, FieldError, Labels};

/// The field that identifies what a form showed when it was opened.
pub(super) const SHOWN: &str = "shown";

/// Identifies what a form shows.
pub(super) fn digest(shown: &impl Serialize) -> String {
    let json = serde_json::to_vec(shown).unwrap_or_default();
    HEXLOWER.encode(&Sha256::digest(json)[..16])
}

/// Refuses what was typed if what the form showed has changed since, so that the change of another tab
/// or person is not undone unseen. The refusal shows the form again, which replaces the change.
pub(super) fn refuse_outdated(typed: &Pairs, current: &impl Serialize) -> HandlerResult<()> {
    let shown = typed.get(SHOWN);
    if shown.is_empty() || shown == digest(current) {
        return Ok(());
    }
    Err(Problem::new(
        Code::Conflict,
        "It was changed after this form was opened, so nothing was stored. Compare what you typed with what is stored now; submit the form again to replace it.",
    ))
}

/// A form that is filled in.
pub(super) struct Fields<'a> {
    values: &'a Pairs,
    errors: &'a [FieldError],
}

/// A field of a form.
pub(super) struct Field<'a> {
    id: String,
    name: &'a str,
    label: &'a str,
    hint: &'a str,
    /// The field of the API that errors name.
    of: String,
}

/// A field whose name is that of the API's field.
pub(super) fn field<'a>(name: &'a str, label: &'a str) -> Field<'a> {
    Field { id: format!("field-{name}"), name, label, hint: "", of: name.to_owned() }
}

impl<'a> Field<'a> {
    /// With a sentence that says what to type.
    pub(super) const fn hint(mut self, hint: &'a str) -> Self {
        self.hint = hint;
        self
    }

    /// With another id, because the name can't be one.
    pub(super) fn id(self, id: String) -> Self {
        Self { id, ..self }
    }

    /// For a field that has another name in the API.
    pub(super) fn of(self, of: String) -> Self {
        Self { of, ..self }
    }
}

impl<'a> Fields<'a> {
    /// Fields with these values. `errors` are those of the refusal, if there was one.
    pub(super) const fn new(values: &'a Pairs, errors: &'a [FieldError]) -> Self {
        Self { values, errors }
    }

    fn errors_of<'b>(&'b self, field: &'b Field<'_>) -> impl Iterator<Item = &'b FieldError> {
        self.errors.iter().filter(|error| error.field == field.of)
    }

    /// The label, the control, the hint and the errors.
    fn around(&self, field: &Field<'_>, control: &Markup) -> Markup {
        html! {
            div.field {
                label for=(field.id) { (field.label) }
                (control)
                @if !field.hint.is_empty() { p.hint id=(format!("{}-hint", field.id)) { (field.hint) } }
                @if self.is_wrong(field).is_some() {
                    div.error id=(format!("{}-error", field.id)) {
                        @for error in self.errors_of(field) { p { (sentences(&error.message)) } }
                    }
                }
            }
        }
    }

    fn is_wrong(&self, field: &Field<'_>) -> Option<&'static str> {
        self.errors_of(field).next().map(|_| "true")
    }

    /// The ids of the elements that describe a field.
    fn described(&self, field: &Field<'_>) -> Option<String> {
        let hint = (!field.hint.is_empty()).then(|| format!("{}-hint", field.id));
        let error = self.is_wrong(field).map(|_| format!("{}-error", field.id));
        let ids: Vec<String> = hint.into_iter().chain(error).collect();
        (!ids.is_empty()).then(|| ids.join(" "))
    }

    /// A field for one line of text.
    pub(super) fn text(&self, field: &Field<'_>, longest: usize) -> Markup {
        let control = html! {
            input type="text" id=(field.id) name=(field.name) value=(self.values.raw(field.name))
                maxlength=(longest) spellcheck="false" autocomplete="off"
                aria-describedby=[self.described(field)] aria-invalid=[self.is_wrong(field)];
        };
        self.around(field, &control)
    }

    /// A field for a number. It is a text field, so that what is typed is kept whatever it is.
    pub(super) fn number(&self, field: &Field<'_>) -> Markup {
        let control = html! {
            input type="text" inputmode="decimal" id=(field.id) name=(field.name)
                value=(self.values.raw(field.name)) maxlength="40" autocomplete="off"
                aria-describedby=[self.described(field)] aria-invalid=[self.is_wrong(field)];
        };
        self.around(field, &control)
    }

    /// A field for an instant, without a time zone.
    pub(super) fn instant(&self, field: &Field<'_>) -> Markup {
        let control = html! {
            input type="datetime-local" id=(field.id) name=(field.name) value=(self.values.raw(field.name))
                aria-describedby=[self.described(field)] aria-invalid=[self.is_wrong(field)];
        };
        self.around(field, &control)
    }

    /// A field for a secret. What was typed is not output again.
    pub(super) fn secret(&self, field: &Field<'_>, longest: usize) -> Markup {
        let control = html! {
            input type="password" id=(field.id) name=(field.name) maxlength=(longest)
                spellcheck="false" autocomplete="new-password"
                aria-describedby=[self.described(field)] aria-invalid=[self.is_wrong(field)];
        };
        self.around(field, &control)
    }

    /// A field for several lines.
    pub(super) fn area(&self, field: &Field<'_>, rows: usize) -> Markup {
        // A browser drops the first line break of the content.
        let control = html! {
            textarea id=(field.id) name=(field.name) rows=(rows) spellcheck="false" autocomplete="off"
                aria-describedby=[self.described(field)] aria-invalid=[self.is_wrong(field)] {
                "\n" (self.values.raw(field.name))
            }
        };
        self.around(field, &control)
    }

    /// A list from which one value is selected. A value that is not in the list is added to it and selected.
    pub(super) fn choice(
        &self,
        field: &Field<'_>,
        options: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> Markup {
        let chosen = self.values.raw(field.name);
        let is_known = options.iter().any(|(value, _)| value.as_ref() == chosen);
        let control = html! {
            select id=(field.id) name=(field.name)
                aria-describedby=[self.described(field)] aria-invalid=[self.is_wrong(field)] {
                @for (value, text) in options {
                    option value=(value.as_ref()) selected[value.as_ref() == chosen] { (text.as_ref()) }
                }
                @if !is_known && !chosen.is_empty() { option value=(chosen) selected { (chosen) } }
            }
        };
        self.around(field, &control)
    }

    /// Boxes to be ticked, all with the same name.
    pub(super) fn boxes(
        &self,
        field: &Field<'_>,
        options: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> Markup {
        let chosen: Vec<&str> = self.values.all(field.name).collect();
        self.ticks("checkbox", field, options, &chosen)
    }

    /// A choice of one of a few values, which all are visible. Without a choice it is the first one.
    pub(super) fn radios(
        &self,
        field: &Field<'_>,
        options: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> Markup {
        let first = options.first().map_or("", |(value, _)| value.as_ref());
        let chosen = match self.values.get(field.name) {
            "" => first,
            chosen => chosen,
        };
        self.ticks("radio", field, options, &[chosen])
    }

    fn ticks(
        &self,
        kind: &str,
        field: &Field<'_>,
        options: &[(impl AsRef<str>, impl AsRef<str>)],
        chosen: &[&str],
    ) -> Markup {
        html! {
            fieldset.ticks aria-describedby=[self.described(field)] {
                legend { (field.label) }
                @for (nth, (value, text)) in options.iter().enumerate() {
                    @let id = format!("{}-{nth}", field.id);
                    div.tick {
                        input type=(kind) id=(id) name=(field.name) value=(value.as_ref())
                            checked[chosen.contains(&value.as_ref())];
                        label for=(id) { (text.as_ref()) }
                    }
                }
                @if !field.hint.is_empty() { p.hint id=(format!("{}-hint", field.id)) { (field.hint) } }
                @if self.is_wrong(field).is_some() {
                    div.error id=(format!("{}-error", field.id)) {
                        @for error in self.errors_of(field) { p { (sentences(&error.message)) } }
                    }
                }
            }
        }
    }
}

/// Reads the fields of a form one by one, and collects what is wrong with them.
pub(super) struct Reader<'a> {
    fields: &'a Pairs,
    errors: Vec<FieldError>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(fields: &'a Pairs) -> Self {
        Self { fields, errors: Vec::new() }
    }

    /// Adds an error.
    pub(super) fn wrong(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError { field: field.into(), message: message.into() });
    }

    /// A text; `None` if it is empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        Some(self.fields.get(name).to_owned()).filter(|text| !text.is_empty())
    }

    /// A value that is parsed by its own type; `None` if it is empty or invalid.
    pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &mut self,
        name: &str,
    ) -> Option<T> {
        match self.fields.get(name) {
            "" => None,
            text => match text.parse() {
                Ok(value) => Some(value),
                Err(error) => {
                    self.wrong(name, error.to_string());
                    None
                }
            },
        }
    }

    /// A whole number that is not negative; `None` if it is empty or invalid.
    pub(super) fn number(&mut self, name: &str) -> Option<u64> {
        match self.fields.get(name) {
            "" => None,
            text => {
                let number = text.parse().ok();
                if number.is_none() {
                    self.wrong(name, "must be a whole number");
                }
                number
            }
        }
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        name: &str,
        all: &[T],
        word: impl Fn(T) -> &'static str,
    ) -> Option<T> {
        let text = self.fields.get(name);
        let found = all.iter().copied().find(|one| word(*one) == text);
        if found.is_none() {
            let words: Vec<&str> = all.iter().copied().map(&word).collect();
            self.wrong(name, format!("must be one of {}", words.join(", ")));
        }
        found
    }

    /// The lines of a text that are not empty.
    pub(super) fn lines(&self, name: &str) -> Vec<String> {
        let lines = self.fields.raw(name).lines().map(str::trim);
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Labels, one to a line.
    pub(super) fn labels(&mut self, name: &str) -> Labels {
        let mut labels = Labels::new();
        for line in self.lines(name) {
            match line.split_once('=') {
                Some((label, value)) => {
                    let (label, value) = (label.trim().to_owned(), value.trim().to_owned());
                    if labels.insert(label, value).is_some() {
                        self.wrong(name, "must not name a label twice");
                    }
                }
                None => self.wrong(name, "must be name=value, one label to a line"),
            }
        }
        labels
    }

    /// The value that was read, unless something is wrong.
    pub(super) fn finish<T>(self, value: T) -> HandlerResult<T> {
        if self.errors.is_empty() { Ok(value) } else { Err(Problem::invalid_fields(self.errors)) }
    }
}

/// Labels as lines of a field.
pub(super) fn label_lines(labels: &Labels) -> String {
    let lines: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    lines.join("\n")
}
