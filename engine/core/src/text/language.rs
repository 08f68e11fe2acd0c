//! Which language a text is in.

use std::borrow::Cow;

use whatlang::{Lang, Script};

use super::words::{count_words, english_share};

/// Shorter texts say too little: there the page's own language tag is believed.
const FEW_WORDS: usize = 20;
/// Bytes looked at; more would not change the answer.
const SAMPLE: usize = 4_000;
/// A text with this share of English function words is English, whatever else is quoted in it.
const ENGLISH_SHARE: f64 = 0.3;

/// A language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Language {
    /// Its tag: two letters (ISO 639-1) where there are two.
    pub tag: String,
    /// Its name in English, for a sentence of the interface.
    pub name: String,
}

/// Finds the language of `text`; `tag` is what the page says of itself ("en-GB"), or empty.
///
/// Under 20 words the tag is believed, and Latin letters without a tag are taken for English unless they are clearly not. From
/// there on the text decides, and the tag only where the text leaves doubt.
pub fn detect(text: &str, tag: &str) -> Language {
    let sample = sample(text);
    let said = tag.split(['-', '_']).next().unwrap_or("").trim().to_ascii_lowercase();
    let said = if said.is_empty() || said == "und" || said.len() > 8 { None } else { Some(said) };
    let english = || named("en".to_owned());
    let Some(info) = whatlang::detect(&sample) else {
        return said.map_or_else(english, named);
    };
    let seen = || Language { tag: tag_of(info.lang()), name: name_of(info.lang()).to_owned() };
    if info.script() != Script::Latin {
        // Another language of the same script is the page's to say; English it is not.
        let trusted = said.filter(|said| said != "en" && (!info.is_reliable() || count_words(&sample) < FEW_WORDS));
        return trusted.map_or_else(seen, named);
    }
    if english_share(&sample) >= ENGLISH_SHARE
        && info.lang() != Lang::Eng
        && said.as_deref().is_none_or(|said| said == "en")
    {
        return english();
    }
    if count_words(&sample) < FEW_WORDS {
        let clear = info.is_reliable() && info.confidence() > 0.9;
        return match said {
            Some(said) => named(said),
            None if clear => seen(),
            None => english(),
        };
    }
    if info.is_reliable() { seen() } else { said.map_or_else(english, named) }
}

/// True if `text` is English, by the rules of [`detect`].
pub fn is_english(text: &str, tag: &str) -> bool {
    detect(text, tag).tag == "en"
}

/// The three-letter code (ISO 639-3) of the language that `text` looks like; English for Latin letters in doubt.
pub fn code(text: &str) -> Option<&'static str> {
    let info = whatlang::detect(&sample(text))?;
    let doubtful = info.script() == Script::Latin && !info.is_reliable();
    Some(if doubtful { Lang::Eng.code() } else { info.lang().code() })
}

/// The language with a tag; the tag itself is the name of one that is not known.
fn named(tag: String) -> Language {
    let tag = TAGS.iter().find(|t| t.1 == tag).map_or(tag, |t| t.0.to_owned());
    let three = TAGS.iter().find(|t| t.0 == tag).map(|t| t.1);
    let name = three.and_then(Lang::from_code).map_or_else(|| format!("“{tag}”"), |lang| name_of(lang).to_owned());
    Language { tag, name }
}

fn name_of(lang: Lang) -> &'static str {
    match lang {
        Lang::Cmn => "Chinese",
        Lang::Nob => "Norwegian",
        _ => lang.eng_name(),
    }
}

fn tag_of(lang: Lang) -> String {
    let code = lang.code();
    TAGS.iter().find(|t| t.1 == code).map_or(code, |t| t.0).to_owned()
}

/// Two-letter tags of web pages and the detector's three-letter codes.
const TAGS: [(&str, &str); 71] = [
    ("en", "eng"),
    ("de", "deu"),
    ("fr", "fra"),
    ("es", "spa"),
    ("it", "ita"),
    ("pt", "por"),
    ("nl", "nld"),
    ("ru", "rus"),
    ("uk", "ukr"),
    ("be", "bel"),
    ("pl", "pol"),
    ("cs", "ces"),
    ("sk", "slk"),
    ("sl", "slv"),
    ("hr", "hrv"),
    ("sr", "srp"),
    ("mk", "mkd"),
    ("bg", "bul"),
    ("ro", "ron"),
    ("hu", "hun"),
    ("sv", "swe"),
    ("da", "dan"),
    ("nb", "nob"),
    ("no", "nob"),
    ("fi", "fin"),
    ("et", "est"),
    ("lv", "lav"),
    ("lt", "lit"),
    ("el", "ell"),
    ("tr", "tur"),
    ("az", "aze"),
    ("uz", "uzb"),
    ("tk", "tuk"),
    ("ka", "kat"),
    ("hy", "hye"),
    ("ar", "ara"),
    ("fa", "pes"),
    ("ur", "urd"),
    ("he", "heb"),
    ("yi", "yid"),
    ("hi", "hin"),
    ("mr", "mar"),
    ("ne", "nep"),
    ("bn", "ben"),
    ("gu", "guj"),
    ("pa", "pan"),
    ("ta", "tam"),
    ("te", "tel"),
    ("kn", "kan"),
    ("ml", "mal"),
    ("or", "ori"),
    ("si", "sin"),
    ("th", "tha"),
    ("my", "mya"),
    ("km", "khm"),
    ("zh", "cmn"),
    ("ja", "jpn"),
    ("ko", "kor"),
    ("vi", "vie"),
    ("id", "ind"),
    ("jv", "jav"),
    ("tl", "tgl"),
    ("ca", "cat"),
    ("eo", "epo"),
    ("la", "lat"),
    ("af", "afr"),
    ("zu", "zul"),
    ("sn", "sna"),
    ("ak", "aka"),
    ("am", "amh"),
    ("cy", "cym"),
];

/// Pieces from all over a text, without its code: pages open with menus and close with legal notes.
fn sample(text: &str) -> Cow<'_, str> {
    let text = without_code(text);
    if text.len() <= SAMPLE {
        return text;
    }
    let boundary = |mut at: usize| {
        while !text.is_char_boundary(at) {
            at += 1;
        }
        at
    };
    let parts = (0..4).map(|part| {
        let start = text.len() / 4 * part;
        &text[boundary(start)..boundary((start + SAMPLE / 4).min(text.len()))]
    });
    Cow::Owned(parts.collect::<Vec<_>>().join("\n"))
}

fn without_code(text: &str) -> Cow<'_, str> {
    if !text.contains("```") {
        return Cow::Borrowed(text);
    }
    let mut inside = false;
    let prose = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    });
    Cow::Owned(prose.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::eval;
    use super::*;

    const GERMAN: &str = "Der Stadtrat hat beschlossen, die alte Hafenbrücke im nächsten Frühjahr für Autos zu schließen. Die Brücke wurde 1931 \
        gebaut und trägt jeden Tag sehr viele Fahrzeuge über den Fluss in die Stadt.";

    #[test]
    fn english_is_english_whatever_the_tag() {
        for text in &eval::load().texts {
            for tag in ["en", "en-GB", "", "de"] {
                assert!(is_english(&text.text, tag), "{} with {tag:?}", text.id);
            }
        }
    }

    #[test]
    fn long_texts_are_believed_over_their_tag() {
        for (text, tag, name) in [
            (GERMAN, "en", "German"),
            (GERMAN, "", "German"),
            (
                "市议会周二投票决定，从明年春天起关闭旧港桥，禁止汽车通行。这座桥建于一九三一年，每天有很多汽车通过旧港桥。",
                "en",
                "Chinese",
            ),
            (
                "Мэр города объявил, что старый мост будет закрыт для машин с весны следующего года, потому что он очень старый и опасный для людей.",
                "en",
                "Russian",
            ),
            (
                "Le conseil municipal a voté mardi pour fermer le vieux pont du port aux voitures à partir du printemps prochain, car il est trop abîmé.",
                "en-US",
                "French",
            ),
            (
                "صوت مجلس المدينة يوم الثلاثاء على إغلاق جسر الميناء القديم أمام السيارات ابتداء من الربيع القادم لأنه قديم جدا وخطير على الناس",
                "",
                "Arabic",
            ),
        ] {
            let language = detect(text, tag);
            assert_eq!(language.name, name);
            assert!(!is_english(text, tag));
        }
    }

    #[test]
    fn short_texts_are_what_the_page_says() {
        assert!(is_english("Good morning", "en"));
        assert!(is_english("Good morning", ""));
        assert!(is_english("Kindergarten", "en-US"));
        assert_eq!(detect("Guten Morgen", "de-AT").name, "German");
        assert_eq!(detect("Доброе утро", "en").tag, "ru");
        assert_eq!(detect("Добрий ранок", "uk").name, "Ukrainian");
        assert_eq!(detect("おはようございます", "").tag, "ja");
        assert_eq!(detect("12:30", "fr").tag, "fr");
        assert!(is_english("", ""));
        assert_eq!(detect("Hallo", "x-klingon").name, "“x”");
        assert_eq!(detect("God morgen", "no").name, "Norwegian");
    }

    #[test]
    fn code_does_not_count() {
        let text = format!(
            "{GERMAN}\n\n```\n{}\n```\n",
            "the function is not for you and it has been here before this\n".repeat(50)
        );
        assert_eq!(detect(&text, "en").name, "German");
    }

    #[test]
    fn every_tag_is_a_language_of_the_detector() {
        for (tag, code) in TAGS {
            assert!(Lang::from_code(code).is_some(), "{code}");
            assert!(!named(tag.to_owned()).name.starts_with('“'));
        }
        for lang in Lang::all() {
            assert_eq!(tag_of(*lang).len(), 2, "{lang}");
        }
    }
}
