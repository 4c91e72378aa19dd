//! The names of settings, and the facts about each setting.

use std::fmt;

/// Whether a setting has an effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Support {
    /// The setting has the effect that its documentation describes.
    Supported,
    /// The setting is an error, for this reason. Ignoring it would be worse.
    Refused(&'static str),
    /// The setting is accepted, and has no effect on the keys of OSDs, for this reason.
    NoEffect(&'static str),
}

/// What `kms explain` and the tables of settings say of a setting, besides its meaning.
///
/// An empty text says nothing. The settings of this workspace's providers have every text; a test checks that.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a setting states every fact")]
pub struct Facts {
    /// The form of the value, or the words that count.
    pub values: &'static str,
    /// What counts if the setting is absent.
    pub default: &'static str,
    /// What Rook does with the setting.
    pub rook: &'static str,
    /// A value that is accepted. For a setting that is refused, one that is refused.
    pub example: &'static str,
}

impl Facts {
    /// What Rook does with most settings.
    pub const SAME: &str = "reads it in the same way";
    /// What Rook does with a setting of our own.
    pub const UNKNOWN: &str = "does not know it";
    /// The values of a boolean.
    pub const BOOLEAN: &str = "`true` or `false`";
    /// The values of a duration.
    pub const DURATION: &str = "a duration: seconds, or `1m30s`";
    /// The values of a setting for certificates.
    pub const SECRET_OR_FILE: &str = "the name of a Secret, or a file with its path";
}

/// An input that is refused here, although Rook takes it or ignores it.
///
/// The checks use [`problem`](Self::problem) as their message, and the table "stricter than Rook" is made of these
/// rows. A test shows that each row is refused, and that its example is the cause.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a row states every cell")]
pub struct Stricter {
    /// The setting, or the path of a field of the `security` block, as the message names it.
    pub setting: &'static str,
    /// An input that is refused: name and value, beside settings that are accepted.
    pub input: (&'static str, &'static str),
    /// What Rook does with this input.
    pub rook: &'static str,
    /// What is wrong: how the message continues after the name of the setting.
    pub reason: &'static str,
    /// Why it is refused here.
    pub why: &'static str,
    /// What to change.
    pub remedy: &'static str,
}

impl Stricter {
    /// The message of the refusal.
    pub fn problem(&self) -> String {
        self.problem_of(self.setting)
    }

    /// The message of the refusal of another setting, for the same reason.
    pub fn problem_of(&self, setting: impl fmt::Display) -> String {
        format!("{setting} {}; {}", self.reason, self.remedy)
    }
}

/// A setting of a provider: one variant of its enum of settings.
pub trait ConfigKey: Copy + fmt::Debug + Ord + Send + Sync + 'static {
    /// Every setting, in the order of the documentation.
    const ALL: &'static [Self];

    /// The name of the setting in `connectionDetails`.
    fn as_str(self) -> &'static str;

    /// Other names of the setting.
    fn aliases(self) -> &'static [&'static str];

    /// Whether the value is a credential.
    fn is_secret(self) -> bool;

    /// The meaning of the setting: one sentence for the table of settings.
    fn doc(self) -> &'static str;

    /// Whether the setting has an effect.
    fn support(self) -> Support;

    /// The form of the value, the default, Rook's behaviour and an example.
    fn facts(self) -> Facts;

    /// Finds a setting by its name or an alias, without regard to case.
    fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| {
            key.as_str().eq_ignore_ascii_case(name)
                || key.aliases().iter().any(|alias| alias.eq_ignore_ascii_case(name))
        })
    }
}

/// The facts about one setting, without the type of its provider.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Setting {
    /// The name in `connectionDetails`.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// Whether the value is a credential.
    pub is_secret: bool,
    /// The meaning, in one or more sentences.
    pub meaning: &'static str,
    /// Whether the setting has an effect.
    pub support: Support,
    /// The form of the value, the default, Rook's behaviour and an example.
    pub facts: Facts,
}

impl Setting {
    /// Every setting of a provider, in the order of the documentation.
    pub fn all<K: ConfigKey>() -> Vec<Self> {
        let facts = |key: &K| Self {
            name: key.as_str(),
            aliases: key.aliases(),
            is_secret: key.is_secret(),
            meaning: key.doc().trim(),
            support: key.support(),
            facts: key.facts(),
        };
        K::ALL.iter().map(facts).collect()
    }

    /// Whether a setting of this name is this one: by its name or another one, in either case.
    pub fn is_named(&self, name: &str) -> bool {
        let mut names = std::iter::once(&self.name).chain(self.aliases);
        names.any(|known| known.eq_ignore_ascii_case(name))
    }

    /// The row of the table "stricter than Rook"; `None` for a setting that is not refused.
    pub fn stricter(&self) -> Option<Stricter> {
        let Support::Refused(why) = self.support else { return None };
        let (why, remedy) = why.split_once("; ").unwrap_or((why, "remove the setting"));
        let Facts { rook, example, .. } = self.facts;
        let (setting, reason) = (self.name, "is not supported");
        Some(Stricter { setting, input: (setting, example), rook, reason, why, remedy })
    }
}

/// Defines the enum of a provider's settings, with [`ConfigKey`], `FromStr` and `Display`.
///
/// Each setting has a doc comment, a variant, a name and its aliases, and a `Support` unless it is simply supported.
/// The keyword `secret` marks a credential. [`Facts`](crate::config::Facts) may follow the
/// names in braces, all four of them:
///
/// ```
/// use kms_core::config::{ConfigKey, Support};
///
/// kms_core::config_keys! {
///     /// A setting of the example.
///     pub enum ExampleConfigKey of "Example" {
///         /// Address of the server. Required.
///         Addr = "EXAMPLE_ADDR" | "EXAMPLE_URL" {
///             values: "a URL", default: "none", rook: "does not know it", example: "https://kms.example"
///         };
///         /// Password.
///         Password = secret "EXAMPLE_PASSWORD";
///         /// Second factor.
///         Mfa = "EXAMPLE_MFA", Support::Refused("a program cannot type it; remove the setting");
///     }
/// }
/// assert_eq!("example_url".parse::<ExampleConfigKey>().unwrap(), ExampleConfigKey::Addr);
/// assert!(ExampleConfigKey::Password.is_secret());
/// assert_eq!(ExampleConfigKey::Addr.facts().example, "https://kms.example");
/// ```
#[macro_export]
macro_rules! config_keys {
    (@is_secret) => {
        false
    };
    (@is_secret secret) => {
        true
    };
    (
        $(#[doc = $title:literal])+
        pub enum $Key:ident of $provider:literal {
            $(
                $(#[doc = $doc:literal])+
                $Variant:ident = $($secret:ident)? $name:literal $(| $alias:literal)*
                    $({ $($fact:ident: $text:expr),+ })?
                    $(, $support:expr)?;
            )*
        }
    ) => {
        $(#[doc = $title])+
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        pub enum $Key {
            $($(#[doc = $doc])+ $Variant,)*
        }

        impl $crate::config::ConfigKey for $Key {
            const ALL: &'static [Self] = &[$(Self::$Variant,)*];

            fn as_str(self) -> &'static str {
                match self {
                    $(Self::$Variant => $name,)*
                }
            }

            fn aliases(self) -> &'static [&'static str] {
                match self {
                    $(Self::$Variant => &[$($alias),*],)*
                }
            }

            fn is_secret(self) -> bool {
                match self {
                    $(Self::$Variant => $crate::config_keys!(@is_secret $($secret)?),)*
                }
            }

            fn doc(self) -> &'static str {
                match self {
                    $(Self::$Variant => ::core::concat!($($doc),+),)*
                }
            }

            fn support(self) -> $crate::config::Support {
                match self {
                    $($(Self::$Variant => $support,)?)*
                    #[allow(unreachable_patterns, reason = "each setting may have said it")]
                    _ => $crate::config::Support::Supported,
                }
            }

            fn facts(self) -> $crate::config::Facts {
                match self {
                    $($(Self::$Variant => $crate::config::Facts { $($fact: $text),+ },)?)*
                    #[allow(unreachable_patterns, reason = "each setting may have stated them")]
                    _ => $crate::config::Facts::default(),
                }
            }
        }

        impl ::core::str::FromStr for $Key {
            type Err = $crate::Error;

            fn from_str(name: &str) -> $crate::Result<Self> {
                <Self as $crate::config::ConfigKey>::find(name).ok_or_else(|| {
                    $crate::Error::config(::std::format!("{name} is not a setting of {}", $provider))
                })
            }
        }

        impl ::core::fmt::Display for $Key {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.write_str($crate::config::ConfigKey::as_str(*self))
            }
        }
    };
}
