//! What a cluster calls outside its machines: a program on the controller, or a webhook; and what reinstalls a machine.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// What is called, once per node and attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hook", rename_all = "kebab-case")]
pub enum Hook {
    /// A local executable on the controller; facts in its environment, exit status is the outcome.
    Program {
        /// Program and fixed arguments.
        argv: Vec<String>,
    },
    /// An HTTP service; facts in a signed body, its answer is the outcome.
    Webhook(Webhook),
}

/// An HTTP service of the user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// `http` or `https`. Sealed in the store: path and query may hold a token.
    pub url: String,
    /// Shared secret of the signature. Sealed in the store.
    pub secret: String,
    /// The only CA to trust, PEM; absent: those that the controller's system trusts.
    #[serde(default)]
    pub ca: Option<String>,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").finish_non_exhaustive()
    }
}

/// What reinstalls a machine between its teardown and its login (recipes `script` and `kubeadm`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reimage {
    /// Who does it, and announces the machine's new SSH host key.
    pub hook: Hook,
    /// Limit until the key is announced, seconds.
    pub limit_s: u32,
    /// Limit from then until the machine answers with that key, seconds.
    pub return_limit_s: u32,
    /// Whether Kubernetes is taken off the machine first.
    pub teardown: bool,
}

impl Hook {
    /// The same hook with every text changed that may hold a secret.
    pub(super) fn map_secrets<E>(
        self,
        change: &mut impl FnMut(String) -> Result<String, E>,
    ) -> Result<Self, E> {
        Ok(match self {
            Self::Program { mut argv } => {
                for argument in argv.iter_mut().skip(1) {
                    *argument = change(std::mem::take(argument))?;
                }
                Self::Program { argv }
            }
            Self::Webhook(Webhook { url, secret, ca }) => {
                Self::Webhook(Webhook { url: change(url)?, secret: change(secret)?, ca })
            }
        })
    }
}

impl Reimage {
    /// See [`Hook::map_secrets`].
    pub(super) fn map_secrets<E>(
        self,
        change: &mut impl FnMut(String) -> Result<String, E>,
    ) -> Result<Self, E> {
        Ok(Self { hook: self.hook.map_secrets(change)?, ..self })
    }
}

/// What only a reinstallation changes on a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Private image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Container runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
}

impl Image {
    /// What is named, without empty texts; `None` if nothing is.
    pub fn named(
        os: &Option<String>,
        image: &Option<String>,
        runtime: &Option<String>,
    ) -> Option<Self> {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let named = Self { os: text(os), image: text(image), runtime: text(runtime) };
        (named != Self::default()).then_some(named)
    }

    /// What a machine carries after a reset that brought this; what it did not name is as before.
    pub fn over(&self, before: Option<Self>) -> Self {
        let before = before.unwrap_or_default();
        Self {
            os: self.os.clone().or(before.os),
            image: self.image.clone().or(before.image),
            runtime: self.runtime.clone().or(before.runtime),
        }
    }

    /// Whether something is wanted that is known to be something else. What was never named is not known: naming it
    /// for the first time says what is there.
    pub fn differs(&self, wanted: &Self) -> bool {
        let pairs = [
            (&self.os, &wanted.os),
            (&self.image, &wanted.image),
            (&self.runtime, &wanted.runtime),
        ];
        pairs
            .iter()
            .any(|(has, wants)| matches!((has, wants), (Some(has), Some(wants)) if has != wants))
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("os", &self.os), ("image", &self.image), ("runtime", &self.runtime)];
        let named = parts.iter().filter_map(|(word, text)| Some((word, text.as_ref()?)));
        for (number, (word, text)) in named.enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            write!(f, "{comma}{word} {text}")?;
        }
        Ok(())
    }
}

/// The identity of a machine that was reinstalled, until its node's status shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reinstalled {
    /// `/etc/machine-id` now.
    pub machine_id: String,
    /// DMI product UUID, where the machine has one.
    pub system_uuid: Option<String>,
    /// Machine ids that the node's status may still show.
    pub replaces: BTreeSet<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_named_is_no_difference() {
        let image = |os: &str, runtime: &str| Image {
            os: Some(os.to_owned()).filter(|text| !text.is_empty()),
            image: None,
            runtime: Some(runtime.to_owned()).filter(|text| !text.is_empty()),
        };
        // (carried, wanted, differs, carried afterwards)
        let rows = [
            (image("a", ""), image("a", "containerd"), false, image("a", "containerd")),
            (image("a", "docker"), image("a", "containerd"), true, image("a", "containerd")),
            (image("a", "containerd"), image("", "containerd"), false, image("a", "containerd")),
            (image("a", ""), image("b", ""), true, image("b", "")),
            (Image::default(), image("b", ""), false, image("b", "")),
        ];
        for (has, wanted, differs, after) in rows {
            assert_eq!(has.differs(&wanted), differs, "{has} {wanted}");
            assert_eq!(wanted.over(Some(has)), after);
        }
    }
}
