//! The one table of parameters: everything that is said of them anywhere comes from here.

use std::fmt::Write as _;

use strsim::damerau_levenshtein;

use crate::config::chain::foreign::{Form, READABLE, Standing, standing};

use super::{Parameters, cache, diagnostics, general, logging, network, telemetry, trust};

/// Letters that may differ between a name and the one that is meant.
const NEAR: usize = 3;

/// A name that sites may set.
pub struct Parameter {
    /// As in the files.
    pub name: &'static str,
    /// How its value is written.
    pub form: &'static str,
    /// What holds without it; empty if that is nothing, or depends.
    pub default: &'static str,
    /// Who needs it.
    pub need: Need,
    /// A configuration repository may set it: it says where repositories come from and who signs
    /// them, but nothing about files, users and programs of this machine.
    pub harmless: bool,
    /// What it does, or why it does nothing.
    pub help: &'static str,
    /// How it takes effect.
    pub by: By,
}

/// Who needs a parameter (spec/config.md, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Ordinary sites.
    Must,
    /// Production sites.
    Common,
    /// Few.
    Rare,
    /// `cvmfs2` does not have it.
    Own,
}

impl Need {
    /// Returns the word for the pages.
    fn word(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Common => "common",
            Self::Rare => "rare",
            Self::Own => "ours",
        }
    }
}

/// How a parameter takes effect.
pub enum By {
    /// By `--set` and the files; `None` is a value that is not understood.
    Set(fn(&mut Parameters, &str) -> Option<()>),
    /// By the files, and by a flag of its own.
    Flag(&'static str),
    /// By the files only: it is about them.
    Files,
    /// It is understood and changes nothing.
    Nothing,
}

/// A parameter that changes nothing, and why.
pub(super) const fn none(name: &'static str, need: Need, why: &'static str) -> Parameter {
    Parameter { name, form: "", default: "", need, harmless: false, help: why, by: By::Nothing }
}

impl Parameter {
    /// Lets a configuration repository set it.
    pub(super) const fn harmless(self) -> Self {
        Self { harmless: true, ..self }
    }

    /// Returns what it does, with the default.
    fn text(&self) -> String {
        match self.default {
            "" => self.help.to_owned(),
            default => format!("{} [{default}]", self.help),
        }
    }
}

/// The sections of spec/config.md, with what they are called.
const SECTIONS: &[(&str, &[Parameter])] = &[
    ("Network", network::PARAMETERS),
    ("Repositories and their signatures", trust::PARAMETERS),
    ("Users, files and control", general::PARAMETERS),
    ("Cache", cache::PARAMETERS),
    ("Logs", logging::PARAMETERS),
    ("InfluxDB", telemetry::PARAMETERS),
    ("Diagnostics", diagnostics::PARAMETERS),
];

/// Returns all parameters.
pub fn all() -> impl Iterator<Item = &'static Parameter> {
    SECTIONS.iter().flat_map(|(_, parameters)| *parameters)
}

/// Finds one by its exact name.
pub fn find(name: &str) -> Option<&'static Parameter> {
    all().find(|known| known.name == name)
}

/// Returns the name that is likely meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    let near = all().map(|known| (damerau_levenshtein(known.name, name), known.name)).min();
    near.filter(|(distance, _)| *distance <= NEAR).map(|(_, known)| known)
}

/// Returns those of `--set` as the text of `--help`.
pub fn help() -> String {
    let mut text = String::from("Parameters for --set:\n");
    for known in all().filter(|known| matches!(known.by, By::Set(_))) {
        let left = format!("{}={}", known.name, known.form);
        let _ = writeln!(text, "  {left:<38} {}", known.text());
    }
    text
}

/// What stands before the list of what configuration repositories may set.
const FOR_REPOSITORIES: &str = "They may set these, and variables whose names begin otherwise, where no file of the \
machine sets those. Their own `blacklist` always adds to that of the machine.\n\n| parameter | how it counts |\n|---|---|\n";

/// Returns all parameters as the tables of docs/parameters.md.
pub fn page() -> String {
    let mut text = String::new();
    let escaped = |text: &str| text.replace('|', "\\|");
    for (section, parameters) in SECTIONS {
        let takes_effect = |known: &&Parameter| !matches!(known.by, By::Nothing);
        if !parameters.iter().any(|known| takes_effect(&known)) {
            continue;
        }
        let _ = writeln!(text, "### {section}\n");
        text.push_str("| parameter | value | default | needed | what it does |\n");
        text.push_str("|---|---|---|---|---|\n");
        for known in parameters.iter().filter(takes_effect) {
            let flag = match known.by {
                By::Flag(flag) => format!("; as `{flag}`"),
                _ => String::new(),
            };
            let Parameter { name, form, default, need, help, .. } = known;
            let default = if default.is_empty() { "" } else { &format!("`{default}`") };
            let _ = writeln!(
                text,
                "| `{name}` | {} | {default} | {} | {}{flag} |",
                escaped(form),
                need.word(),
                escaped(help)
            );
        }
        text.push('\n');
    }
    text.push_str(
        "### Understood, without effect\n\n| parameter | needed | why |\n|---|---|---|\n",
    );
    for known in all().filter(|known| matches!(known.by, By::Nothing)) {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} |",
            known.name,
            known.need.word(),
            escaped(known.help)
        );
    }
    text.push_str("\n### For configuration repositories\n\n");
    text.push_str(FOR_REPOSITORIES);
    for known in all().filter(|known| known.harmless) {
        let how = match standing(known.name) {
            Some(Standing::InTurn(form)) => ("in the order of the files", form),
            Some(Standing::WhereUnset(form)) => ("where no file of the machine sets it", form),
            Some(Standing::Added) => {
                ("added to that of the machine; files of the repository only", Form::Any)
            }
            None => continue,
        };
        let bound = match how.1 {
            Form::Any => String::new(),
            Form::Urls => "; http:// and https:// only".to_owned(),
            Form::UpTo(most) => format!("; up to {most}"),
        };
        let _ = writeln!(text, "| `{}` | {}{bound} |", known.name, how.0);
    }
    let readable: Vec<_> = READABLE.iter().map(|name| format!("`{name}`")).collect();
    let _ = writeln!(
        text,
        "\nOf the values of the machine their files see these: {}. Every other one is empty for them, with a \
         warning where it is not.",
        readable.join(", ")
    );
    text
}
