//! Varied strings, the same in every run.

/// A small generator of random numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const WORDS: &[&str] = &[
    "the",
    "bridge",
    "carries",
    "Vehicles",
    "ANTIDISESTABLISHMENTARIANISM",
    "don't",
    "WE'LL",
    "it's",
    "I'm",
    "you're",
    "they'Ve",
    "'s",
    "'",
    "’s",
    "o'clock",
    "naïve",
    "Café",
    "déjà",
    "straße",
    "İstanbul",
    "ǅemal",
    "Привет",
    "мир",
    "Ελλάδα",
    "שלום",
    "مرحبا",
    "١٢٣",
    "नमस्ते",
    "हिन्दी",
    "ไทย",
    "日本語",
    "テキスト",
    "한국어",
    "텍스트",
    "漢字かな",
    "e\u{301}",
    "a\u{30a}o\u{308}",
    "½",
    "²",
    "Ⅳ",
    "①",
    "123",
    "1,234.56",
    "0x1F",
    "10_000",
    "3rd",
    "v2.0.1",
    "https://example.org/a?b=c&d=%20#e",
    "mail@example.org",
    "C++",
    "fn(){}",
    "=>",
    "->",
    "...",
    "…",
    "—",
    "–",
    "\"quoted\"",
    "(paren)",
    "[x]",
    "{y}",
    "<b>",
    "</td>",
    "<table>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<s>",
    "</s>",
    "<unk>",
    "<0x41>",
    "<repo_name>",
    "▁",
    "▁▁",
    "▁x",
    "x▁",
    "😊",
    "👩\u{200d}👩\u{200d}👧",
    "🇩🇪",
    "👍🏽",
    "\u{feff}",
    "\u{200b}",
    "\u{a0}",
    "\u{2028}",
    "\u{85}",
    "ﬁ",
    "Å",
    "K",
    "ſ",
    "'ſ",
    "$42",
    "€9",
    "£",
    "¥",
    "§",
    "©",
];

const SPACES: &[&str] = &[
    " ", " ", " ", " ", " ", "", "", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\n\n\n", "\t\t", "        ",
    "\u{a0}", "\u{3000}", "\u{b}", "\u{c}",
];

/// Blocks of characters to draw single ones from.
const BLOCKS: &[(u32, u32)] = &[
    (0x20, 0x7f),
    (0x20, 0x7f),
    (0x20, 0x7f),
    (0x00, 0x20),
    (0x80, 0x250),
    (0x300, 0x370),
    (0x370, 0x400),
    (0x400, 0x500),
    (0x590, 0x600),
    (0x600, 0x700),
    (0x900, 0x980),
    (0xe00, 0xe80),
    (0x1100, 0x1200),
    (0x1e00, 0x2000),
    (0x2000, 0x2070),
    (0x2070, 0x20a0),
    (0x2100, 0x2190),
    (0x2190, 0x2600),
    (0x2600, 0x2800),
    (0x3000, 0x3100),
    (0x4e00, 0x5000),
    (0xac00, 0xae00),
    (0xe000, 0xe010),
    (0xff00, 0xff60),
    (0x1f300, 0x1f650),
    (0x20000, 0x20040),
];

/// Makes so many strings, of words, of single characters, and of both.
pub(crate) fn varied(count: usize, seed: u64) -> Vec<String> {
    let mut random = Random::new(seed);
    (0..count)
        .map(|_| {
            let mut text = String::new();
            let style = random.below(3);
            for _ in 0..=random.below(24) {
                if style == 0 || style == 2 && random.below(2) == 0 {
                    text.push_str(random.pick(SPACES));
                    text.push_str(random.pick(WORDS));
                } else {
                    let (from, to) = BLOCKS[random.below(BLOCKS.len())];
                    let code = from + random.below((to - from) as usize) as u32;
                    text.extend(char::from_u32(code));
                }
            }
            if random.below(8) == 0 {
                text.push_str(random.pick(SPACES));
            }
            text
        })
        .collect()
}

/// Ordinary prose of many words with some of everything else between.
pub(crate) fn prose(words: usize, seed: u64) -> String {
    const COMMON: &[&str] = &[
        "the",
        "of",
        "and",
        "to",
        "in",
        "engineers",
        "found",
        "cracks",
        "two",
        "main",
        "girders",
        "city",
        "council",
        "voted",
        "Tuesday",
        "close",
        "old",
        "Harbour",
        "Bridge",
        "cars",
        "from",
        "next",
        "spring",
        "pedestrians",
        "will",
        "still",
        "be",
        "able",
        "cross",
        "repairs",
        "would",
        "cost",
        "an",
        "estimated",
        "million",
        "which",
        "says",
        "cannot",
        "afford",
        "before",
        "during",
        "unbelievable",
        "internationalization",
        "photosynthesis",
        "measurement",
    ];
    let mut random = Random::new(seed);
    let mut text = String::new();
    for word in 0..words {
        text.push_str(if random.below(12) == 0 { random.pick(WORDS) } else { random.pick(COMMON) });
        text.push_str(if word % 17 == 16 { ".\n" } else { " " });
    }
    text
}
