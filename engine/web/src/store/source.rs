//! Addresses of a model's files, and the words for where they come from.

use sotto_core::formats::pinned::check_path;
use sotto_core::{Error, Result};

use super::manifest::Source;
use crate::protocol::Destination;

/// The model hub.
const HUB: &str = "https://huggingface.co";

impl Source {
    /// A mirror, or a file on one, from what the user or a policy gave.
    pub fn mirror(address: &str) -> Result<Self> {
        let address = address.trim().trim_end_matches('/');
        origin(address)?;
        Ok(Self::Mirror { folder: address.to_owned() })
    }

    /// The address of a file; none for files that the user chose.
    pub fn address(&self, path: &str) -> Option<String> {
        let path = encoded(path);
        match self {
            Self::Hub { repository, revision } => {
                Some(format!("{HUB}/{}/resolve/{}/{path}", encoded(repository), encoded(revision)))
            }
            Self::Mirror { folder } => Some(format!("{folder}/{path}")),
            Self::Files { .. } => None,
        }
    }

    /// What the network lock must be opened for.
    pub fn destination(&self) -> Option<Destination> {
        match self {
            Self::Hub { .. } => Some(Destination::Hub),
            Self::Mirror { folder } => origin(folder).ok().map(|origin| Destination::Origin { origin }),
            Self::Files { .. } => None,
        }
    }

    /// In words.
    pub fn words(&self) -> String {
        match self {
            Self::Hub { repository, .. } => format!("{}/{repository}", HUB.trim_start_matches("https://")),
            Self::Mirror { folder } => folder.split_once("://").map_or(folder.as_str(), |(_, rest)| rest).to_owned(),
            Self::Files { name } => format!("{name}, a file on this computer"),
        }
    }

    /// Who is asked, for messages: a host.
    pub fn host(&self) -> String {
        let words = self.words();
        words.split('/').next().unwrap_or(&words).to_owned()
    }
}

/// Cuts an address into the folder and the last name in it.
pub fn split_address(address: &str) -> Result<(Source, String)> {
    let address = address.trim().trim_end_matches('/');
    let origin = origin(address)?;
    let (folder, name) = address.rsplit_once('/').unwrap_or((address, ""));
    // A host alone has no name after its last slash.
    if folder.len() < origin.len() {
        return Ok((Source::mirror(address)?, String::new()));
    }
    check_path(name).map_err(|_| not_an_address(address))?;
    Ok((Source::mirror(folder)?, name.to_owned()))
}

/// `scheme://host[:port]` of an address, if it is one that Sotto fetches from: http or https, without a user's name, a query or a
/// fragment.
fn origin(address: &str) -> Result<String> {
    let lower = address.to_ascii_lowercase();
    let scheme =
        ["https://", "http://"].into_iter().find(|s| lower.starts_with(s)).ok_or_else(|| not_an_address(address))?;
    let rest = lower.get(scheme.len()..).unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    let clean = address.chars().all(|c| c.is_ascii_graphic() && !"?#\\\"<>^`{|}".contains(c));
    if host.is_empty() || !host.chars().all(fits) || !clean || address.len() > 1000 {
        return Err(not_an_address(address));
    }
    let default_port = if scheme == "https://" { ":443" } else { ":80" };
    Ok(format!("{scheme}{}", host.strip_suffix(default_port).unwrap_or(host)))
}

fn not_an_address(address: &str) -> Error {
    let shown: String = address.chars().filter(|c| !c.is_control()).take(96).collect();
    Error::format(shown, "this is not the address of a folder: give one such as https://models.example.org/gemma-4-e2b")
}

/// A path with what is special in an address escaped.
fn encoded(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_files() {
        let hub = Source::Hub { repository: "google/gemma".into(), revision: "main".into() };
        assert_eq!(
            hub.address("a b/model.safetensors").unwrap(),
            "https://huggingface.co/google/gemma/resolve/main/a%20b/model.safetensors"
        );
        assert_eq!((hub.words(), hub.host()), ("huggingface.co/google/gemma".into(), "huggingface.co".into()));
        assert_eq!(hub.destination(), Some(Destination::Hub));
        let mirror = Source::mirror(" HTTP://Files.Example:8080/Models/e2b/ ").unwrap();
        assert_eq!(mirror.address("config.json").unwrap(), "HTTP://Files.Example:8080/Models/e2b/config.json");
        let origin = "http://files.example:8080".into();
        assert_eq!(mirror.destination(), Some(Destination::Origin { origin }));
        let files = Source::Files { name: "x.gguf".into() };
        assert_eq!((files.address("x.gguf"), files.destination()), (None, None));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "models.example",
            "ftp://a/b",
            "file:///etc",
            "https://",
            "https:///a",
            "https://user@host/a",
            "https://host/a?b",
            "https://host/a#b",
            "https://host\\a",
            "https://ho st/a",
            "javascript:alert(1)",
            "https://host/\u{202e}",
            "chrome://settings",
        ] {
            assert!(Source::mirror(bad).is_err(), "{bad}");
        }
        assert!(Source::mirror("https://[::1]:8443/a").is_ok());
    }

    #[test]
    fn an_address_of_a_file_is_cut() {
        let (source, name) = split_address("https://h.example/a/m.gguf").unwrap();
        assert_eq!((source, name.as_str()), (Source::mirror("https://h.example/a").unwrap(), "m.gguf"));
        let (source, name) = split_address("http://127.0.0.1:8000/").unwrap();
        assert_eq!((source, name.as_str()), (Source::mirror("http://127.0.0.1:8000").unwrap(), ""));
        let (source, name) = split_address("http://127.0.0.1:8000/tiny").unwrap();
        assert_eq!((source, name.as_str()), (Source::mirror("http://127.0.0.1:8000").unwrap(), "tiny"));
    }
}
