//! From logits to the next token: greedy or random, in the order of Hugging Face's processors.
//!
//! Order: the caller's [`LogitsProcessor`]s, repetition penalty, temperature, top-k, top-p, min-p, draw. All arithmetic after the
//! logits is in pure Rust (`libm`), so that one seed gives one text on every platform that computes the same logits.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The logit of a token that must not come next.
///
/// Finite, as in the reference recipes: where everything is banned the result is still a token, not a NaN.
pub const BANNED: f32 = -1e9;

/// How the next token is chosen. The default is greedy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct SamplerOptions {
    /// 0 is greedy; otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the fewest most likely tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the most likely one; 0 drops none.
    pub min_p: f32,
    /// Divides positive, multiplies negative logits of tokens in the history; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Start of the random numbers.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl SamplerOptions {
    /// How Gemma's own settings draw; for measurements.
    pub fn usual(seed: u64) -> Self {
        Self { temperature: 1.0, top_k: 64, top_p: 0.95, seed, ..Self::default() }
    }

    /// Checks that every number is in its range.
    pub fn validate(&self) -> Result<()> {
        let bad = |what: &str, reason: &str| Err(Error::format(format!("sampling option {what}"), reason));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad("temperature", "must be 0 (greedy) or a positive number");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("topP", "must be above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return bad("minP", "must be between 0 and 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return bad("repetitionPenalty", "must be a positive number; 1 changes nothing");
        }
        Ok(())
    }
}

/// What has been generated so far, for a [`LogitsProcessor`].
#[derive(Debug, Clone, Copy)]
pub struct Generated<'a> {
    /// Generated ids; the prompt is not among them.
    pub ids: &'a [u32],
    /// Their text, the seed text in front.
    pub text: &'a str,
}

/// Changes logits before a token is drawn.
pub trait LogitsProcessor {
    /// Changes `logits`, `[vocab]`, in place.
    fn process(&mut self, logits: &mut [f32], so_far: Generated<'_>);
}

/// xoshiro128++ of Blackman and Vigna, seeded through SplitMix64: small, and the same on every platform.
#[derive(Debug, Clone)]
pub struct Random([u32; 4]);

impl Random {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        let (a, b) = (next(), next());
        Self([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32])
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(7).wrapping_add(s[0]);
        let t = s[1] << 9;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(11);
        result
    }

    /// A number in [0, 1) with 53 random bits.
    pub fn next_f64(&mut self) -> f64 {
        let bits = (u64::from(self.next_u32()) << 21) ^ (u64::from(self.next_u32()) >> 11);
        bits as f64 / (1_u64 << 53) as f64
    }
}

/// Chooses tokens for one generation.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    random: Random,
    /// Scratch: which ids of the history were already penalised, one bit each.
    seen: Vec<u64>,
    /// Scratch: candidates in falling order of likelihood.
    candidates: Vec<(f32, u32)>,
    /// Scratch: their weights relative to the most likely one.
    weights: Vec<f64>,
}

impl Sampler {
    /// Makes a sampler; fails on options out of range.
    pub fn new(options: SamplerOptions) -> Result<Self> {
        options.validate()?;
        let random = Random::new(options.seed);
        Ok(Self { options, random, seen: Vec::new(), candidates: Vec::new(), weights: Vec::new() })
    }

    /// The options it was made with.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// The numbers that the next draws take, one a token; none are taken when the choice is greedy.
    pub fn random(&self) -> Random {
        self.random.clone()
    }

    /// Counts a token that a device chose as this sampler would have.
    pub fn skip(&mut self) {
        if self.options.temperature != 0.0 {
            self.random.next_f64();
        }
    }

    /// Chooses the next token from `logits`, `[vocab]`, which it changes.
    ///
    /// `history` holds the ids that the repetition penalty counts: prompt and output as Hugging Face does, or the output alone.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> Result<u32> {
        self.penalise(logits, history);
        let best = argmax(logits)?;
        if self.options.temperature == 0.0 {
            return Ok(best);
        }
        self.rank(logits, logits[best as usize]);
        let keep = self.cut();
        let total: f64 = self.weights[..keep].iter().sum();
        let mut left = self.random.next_f64() * total;
        for (&weight, &(_, id)) in self.weights[..keep].iter().zip(&self.candidates) {
            left -= weight;
            if left < 0.0 {
                return Ok(id);
            }
        }
        Ok(self.candidates[..keep].last().map_or(best, |c| c.1))
    }

    fn penalise(&mut self, logits: &mut [f32], history: &[u32]) {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        self.seen.clear();
        self.seen.resize(logits.len().div_ceil(64), 0);
        for &id in history {
            let (word, bit) = (id as usize / 64, 1_u64 << (id % 64));
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            if self.seen[word] & bit == 0 {
                self.seen[word] |= bit;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Fills `candidates` in falling order and `weights` with exp((logit - max) / temperature), as many as the draw can need.
    fn rank(&mut self, logits: &[f32], max: f32) {
        let temperature = f64::from(self.options.temperature);
        let weight = |logit: f32| libm::exp((f64::from(logit) - f64::from(max)) / temperature);
        // Ids break ties, so that the order does not depend on the selection's inner workings. Both zeros are equal.
        let falling = |a: &(f32, u32), b: &(f32, u32)| (b.0 + 0.0).total_cmp(&(a.0 + 0.0)).then(a.1.cmp(&b.1));
        self.candidates.clear();
        self.candidates.extend(logits.iter().zip(0..).map(|(&logit, id)| (logit, id)));
        let top_k = match self.options.top_k as usize {
            0 => self.candidates.len(),
            k => k.min(self.candidates.len()),
        };
        if top_k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(top_k, falling);
            self.candidates.truncate(top_k);
        }
        // Sorting a whole vocabulary costs milliseconds; the nucleus is nearly always among the first few hundred.
        if self.options.top_p < 1.0 && self.candidates.len() > 512 {
            let total: f64 = self.candidates.iter().map(|c| weight(c.0)).sum();
            let mut size = 256;
            while size < self.candidates.len() {
                self.candidates.select_nth_unstable_by(size, falling);
                let held: f64 = self.candidates[..size].iter().map(|c| weight(c.0)).sum();
                if held >= f64::from(self.options.top_p) * total {
                    self.candidates.truncate(size);
                    self.candidates.sort_unstable_by(falling);
                    self.weights.clear();
                    self.weights.extend(self.candidates.iter().map(|c| weight(c.0)));
                    self.nucleus(total);
                    return;
                }
                size *= 8;
            }
        }
        self.candidates.sort_unstable_by(falling);
        self.weights.clear();
        self.weights.extend(self.candidates.iter().map(|c| weight(c.0)));
        let total = self.weights.iter().sum();
        self.nucleus(total);
    }

    /// Keeps the shortest head of the ranked candidates whose weights reach top-p of `total`.
    fn nucleus(&mut self, total: f64) {
        let p = f64::from(self.options.top_p);
        if p >= 1.0 {
            return;
        }
        let mut held = 0.0;
        let keep = self.weights.iter().take_while(|&&w| {
            let wanted = held < p * total;
            held += w;
            wanted
        });
        let keep = keep.count().max(1);
        self.weights.truncate(keep);
        self.candidates.truncate(keep);
    }

    /// How many ranked candidates min-p leaves, none that is impossible; at least one. The first weight is 1.
    fn cut(&self) -> usize {
        let floor = f64::from(self.options.min_p);
        self.weights.iter().take_while(|&&w| w >= floor && w > 0.0).count().max(1)
    }
}

/// What is said of logits that no model can mean.
pub(crate) fn damaged(what: &str) -> Error {
    let reason = "the weights are damaged or the device computes wrongly; load the model again, or use the CPU";
    Error::format("logits", format!("{what}: {reason}"))
}

/// The id of the largest logit, the first of equals.
pub fn argmax(logits: &[f32]) -> Result<u32> {
    let mut best = (f32::NEG_INFINITY, None);
    for (&logit, id) in logits.iter().zip(0_u32..) {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(damaged(&format!("the value for token {id} is {logit}")));
        }
        if logit > best.0 || best.1.is_none() {
            best = (logit, Some(id));
        }
    }
    best.1.ok_or_else(|| Error::format("logits", "there are none: the model has an empty vocabulary"))
}

/// When a generation ends.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StopOptions {
    /// Ids that end it; they are not part of the text.
    pub ids: Vec<u32>,
    /// Texts that end it; they are not part of the text.
    pub strings: Vec<String>,
    /// Most tokens to generate.
    pub max_tokens: u32,
}

/// Finds stop strings in streamed text, and holds back what may be the beginning of one.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    strings: Vec<String>,
    held: String,
    stopped: bool,
}

/// What a [`StopMatcher`] lets through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Released {
    /// Text that can be shown.
    pub text: String,
    /// True once a stop string was found: generation ends, and what followed is dropped.
    pub stopped: bool,
}

impl StopMatcher {
    /// Makes a matcher; empty strings are ignored.
    pub fn new(strings: &[String]) -> Self {
        let strings = strings.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self { strings, held: String::new(), stopped: false }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: &str) -> Released {
        if self.stopped {
            return Released { text: String::new(), stopped: true };
        }
        self.held.push_str(piece);
        if let Some(at) = self.strings.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            self.stopped = true;
            return Released { text: std::mem::take(&mut self.held), stopped: true };
        }
        let hold = self.strings.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - hold);
        Released { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// Ends the stream: what was held back was no stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// The length of the longest end of `text` that begins `stop` without being all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = stop.len().saturating_sub(1).min(text.len());
    (1..=longest)
        .rev()
        .find(|&n| stop.is_char_boundary(n) && text.as_bytes().ends_with(&stop.as_bytes()[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(options: SamplerOptions, logits: &[f32], n: usize) -> Vec<f64> {
        let mut sampler = Sampler::new(options).unwrap();
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(&mut logits.to_vec(), &[]).unwrap() as usize] += 1.0 / n as f64;
        }
        counts
    }

    fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let e: Vec<f64> = logits.iter().map(|&l| (f64::from(l - max) / temperature).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.iter().map(|x| x / sum).collect()
    }

    fn close(got: &[f64], want: &[f64]) {
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() < 0.012, "token {i}: drawn {g}, probability {w}");
        }
    }

    const LOGITS: [f32; 6] = [1.0, 3.0, 2.0, -1.0, 2.5, 0.0];

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut sampler = Sampler::new(SamplerOptions::default()).unwrap();
        assert_eq!(sampler.sample(&mut [0.0, 2.0, 2.0, 1.0], &[]).unwrap(), 1);
        assert_eq!(sampler.sample(&mut [BANNED, BANNED], &[]).unwrap(), 0);
        assert_eq!(sampler.sample(&mut [f32::NEG_INFINITY, -3.0], &[]).unwrap(), 1);
    }

    #[test]
    fn draws_follow_the_softmax() {
        let hot = SamplerOptions { temperature: 1.0, seed: 7, ..Default::default() };
        close(&draws(hot.clone(), &LOGITS, 40_000), &softmax(&LOGITS, 1.0));
        let cool = SamplerOptions { temperature: 0.6, ..hot };
        close(&draws(cool, &LOGITS, 40_000), &softmax(&LOGITS, 0.6));
    }

    #[test]
    fn top_k_keeps_k_and_renormalises() {
        let options = SamplerOptions { temperature: 1.0, top_k: 2, seed: 1, ..Default::default() };
        let p = softmax(&[3.0, 2.5], 1.0);
        close(&draws(options, &LOGITS, 40_000), &[0.0, p[0], 0.0, 0.0, p[1], 0.0]);
    }

    #[test]
    fn top_p_keeps_the_smallest_head_that_reaches_it() {
        // Probabilities 0.5, 0.3, 0.15, 0.05.
        let logits = [0.5_f32, 0.3, 0.15, 0.05].map(f32::ln);
        let options = SamplerOptions { temperature: 1.0, top_p: 0.75, seed: 3, ..Default::default() };
        close(&draws(options.clone(), &logits, 40_000), &[0.625, 0.375, 0.0, 0.0]);
        let tight = SamplerOptions { top_p: 0.01, ..options };
        close(&draws(tight, &logits, 1_000), &[1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn top_p_is_the_same_over_a_large_vocabulary() {
        let logits: Vec<f32> = (0..20_000).map(|i| -(i as f32) * 0.01).collect();
        let options = SamplerOptions { temperature: 1.0, top_p: 0.5, seed: 3, ..Default::default() };
        let mut sampler = Sampler::new(options).unwrap();
        for _ in 0..300 {
            // Half of a geometric distribution with ratio exp(-0.01) lies in its first 70 tokens.
            assert!(sampler.sample(&mut logits.clone(), &[]).unwrap() < 70);
        }
        let wide = SamplerOptions { temperature: 1.0, top_p: 0.999, seed: 5, ..Default::default() };
        let mut sampler = Sampler::new(wide).unwrap();
        let mean = (0..300).map(|_| f64::from(sampler.sample(&mut logits.clone(), &[]).unwrap())).sum::<f64>() / 300.0;
        assert!((70.0..130.0).contains(&mean), "mean {mean} of a distribution with mean 99");
    }

    #[test]
    fn min_p_is_relative_to_the_most_likely() {
        let logits = [0.5_f32, 0.3, 0.15, 0.05].map(f32::ln);
        let options = SamplerOptions { temperature: 1.0, min_p: 0.35, seed: 9, ..Default::default() };
        close(&draws(options, &logits, 40_000), &[0.625, 0.375, 0.0, 0.0]);
    }

    #[test]
    fn repetition_penalty_counts_each_id_once() {
        let options = SamplerOptions { repetition_penalty: 2.0, ..Default::default() };
        let mut sampler = Sampler::new(options).unwrap();
        let mut logits = [4.0, 3.0, -1.0];
        assert_eq!(sampler.sample(&mut logits, &[0, 0, 0, 2, 99]).unwrap(), 1);
        assert_eq!(logits, [2.0, 3.0, -2.0]);
    }

    #[test]
    fn a_seed_gives_one_sequence() {
        let run = |seed| {
            let options = SamplerOptions { temperature: 1.5, top_p: 0.95, seed, ..Default::default() };
            let mut sampler = Sampler::new(options).unwrap();
            (0..50).map(|_| sampler.sample(&mut LOGITS.to_vec(), &[]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(42), run(42));
        assert_ne!(run(42), run(43));
        // Pinned: the generator must not change between platforms or versions.
        let mut random = Random([1, 2, 3, 4]);
        assert_eq!([random.next_u32(), random.next_u32(), random.next_u32()], [641, 1_573_767, 3_222_811_527]);
    }

    #[test]
    fn broken_logits_are_an_error() {
        let mut sampler = Sampler::new(SamplerOptions::default()).unwrap();
        let error = sampler.sample(&mut [0.0, f32::NAN], &[]).unwrap_err().to_string();
        assert!(error.contains("token 1") && error.contains("NaN"), "{error}");
        assert!(sampler.sample(&mut [f32::INFINITY], &[]).is_err());
        assert!(sampler.sample(&mut [], &[]).is_err());
    }

    #[test]
    fn options_out_of_range_are_named() {
        for (options, name) in [
            (SamplerOptions { temperature: -1.0, ..Default::default() }, "temperature"),
            (SamplerOptions { temperature: f32::NAN, ..Default::default() }, "temperature"),
            (SamplerOptions { top_p: 0.0, ..Default::default() }, "topP"),
            (SamplerOptions { min_p: 1.5, ..Default::default() }, "minP"),
            (SamplerOptions { repetition_penalty: 0.0, ..Default::default() }, "repetitionPenalty"),
        ] {
            assert!(Sampler::new(options).unwrap_err().to_string().contains(name));
        }
    }

    fn stream(stops: &[&str], pieces: &[&str]) -> (String, bool, usize) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut matcher = StopMatcher::new(&stops);
        let (mut out, mut used) = (String::new(), 0);
        for piece in pieces {
            let released = matcher.push(piece);
            used += 1;
            out += &released.text;
            if released.stopped {
                return (out, true, used);
            }
        }
        out += &matcher.finish();
        (out, false, used)
    }

    #[test]
    fn stop_strings_are_found_across_pieces() {
        assert_eq!(stream(&["###"], &["Hello #", "#", "# more"]), ("Hello ".into(), true, 3));
        assert_eq!(stream(&["###"], &["a ## b", " c"]), ("a ## b c".into(), false, 2));
        assert_eq!(stream(&["\n", "User:"], &["Us", "er", ": x"]), (String::new(), true, 3));
        assert_eq!(stream(&["aab"], &["aa", "ab"]), ("a".into(), true, 2));
        assert_eq!(stream(&["né"], &["n", "ée"]), (String::new(), true, 2));
        assert_eq!(stream(&[""], &["all", " of it"]), ("all of it".into(), false, 2));
    }

    #[test]
    fn only_the_beginning_of_a_stop_string_is_held_back() {
        let mut matcher = StopMatcher::new(&["<end>".to_owned()]);
        assert_eq!(matcher.push("text <en"), Released { text: "text ".into(), stopped: false });
        assert_eq!(matcher.push("ough"), Released { text: "<enough".into(), stopped: false });
        assert_eq!(matcher.push("<end>tail"), Released { text: String::new(), stopped: true });
        assert_eq!(matcher.push("more"), Released { text: String::new(), stopped: true });
        assert_eq!(matcher.finish(), "");
    }
}
