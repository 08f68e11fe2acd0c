//! The sentences of a text that say most of what it says, word for word.

use std::ops::Range;

use super::{
    language,
    sentences::{Kind, Sentence, is_finished, sentences},
    words::{Terms, Vocabulary, count_words},
};

/// How much a sentence loses per unit of likeness to one already picked.
const SPREAD: f64 = 0.7;

/// The `k` key sentences of `text`, as byte ranges in the order of the page.
///
/// Score: how often the sentence's terms occur in the text, per term (the best sentence has 1); +1 for the first sentence; +0.2
/// for one that opens a paragraph; +0.2 for one with a figure; −0.3 under 7 or over 45 words. Then greedily, less 0.7 × the
/// closest cosine to those picked. These weights are measured (the starter's recipes). Beyond them, for real pages: headings,
/// rows and code are picked only where there is nothing else, the first sentence is the first of 7 words or more, a paragraph's
/// piece that does not end like a sentence (a caption, a button) loses 0.3, pieces of under 4 words are left out where there are
/// enough others, and no sentence is shown twice.
///
/// Linear in the text's length.
pub fn key_sentences(text: &str, k: usize) -> Vec<Range<usize>> {
    let all = sentences(text);
    let mut candidates: Vec<&Sentence> = all.iter().filter(|s| matches!(s.kind, Kind::Prose | Kind::Item)).collect();
    if candidates.is_empty() {
        candidates = all.iter().collect();
    }
    // Buttons, bylines, labels.
    let told = |s: &Sentence| is_finished(&text[s.range.clone()]) || count_words(&text[s.range.clone()]) >= 4;
    if candidates.iter().filter(|s| told(s)).count() >= k {
        candidates.retain(|s| told(s));
    }
    let mut picked = pick(text, &candidates, k);
    picked.sort_unstable();
    picked.into_iter().map(|i| candidates[i].range.clone()).collect()
}

fn pick(text: &str, candidates: &[&Sentence], k: usize) -> Vec<usize> {
    let weights = Weights::new(text, candidates.iter().map(|s| &text[s.range.clone()]));
    let words: Vec<usize> = candidates.iter().map(|s| count_words(&text[s.range.clone()])).collect();
    let first = words.iter().position(|&n| n >= 7).unwrap_or(0);
    let top = weights.density.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let mut score: Vec<f64> = candidates
        .iter()
        .enumerate()
        .map(|(i, s)| {
            let sentence = &text[s.range.clone()];
            let on = |yes: bool, value: f64| if yes { value } else { 0.0 };
            weights.density[i] / top
                + on(i == first, 1.0)
                + on(s.opens, 0.2)
                + on(sentence.contains(char::is_numeric), 0.2)
                - on(!(7..=45).contains(&words[i]), 0.3)
                - on(s.kind == Kind::Prose && !is_finished(sentence), 0.3)
        })
        .collect();
    let mut closest = vec![0.0_f64; candidates.len()];
    let mut picked = Vec::new();
    while picked.len() < k {
        let value = |i: usize| score[i] - SPREAD * closest[i];
        // The first of equals, as in the reference; a taken one has a score of minus infinity.
        let best = (0..candidates.len()).fold(None, |best: Option<usize>, i| match best {
            _ if score[i] == f64::NEG_INFINITY => best,
            Some(b) if value(i) <= value(b) => best,
            _ => Some(i),
        });
        let Some(best) = best else { break };
        picked.push(best);
        score[best] = f64::NEG_INFINITY;
        let vector = weights.vector(best);
        for (i, closest) in closest.iter_mut().enumerate() {
            if score[i] > f64::NEG_INFINITY {
                let cosine = weights.cosine(i, &vector, best);
                *closest = closest.max(cosine);
                if cosine > 0.999 {
                    score[i] = f64::NEG_INFINITY;
                }
            }
        }
    }
    picked
}

/// Term counts of sentences, and what they weigh.
struct Weights {
    /// Term numbers and counts of each sentence, by rising number.
    counts: Vec<Vec<(u32, f64)>>,
    /// Inverse document frequency of each term.
    idf: Vec<f64>,
    /// Lengths of the weighted vectors.
    norm: Vec<f64>,
    /// Mean frequency in the text of a sentence's different terms, over at least 8.
    density: Vec<f64>,
}

impl Weights {
    fn new<'a>(text: &str, list: impl Iterator<Item = &'a str>) -> Self {
        let terms = Terms::of(language::code(text));
        let mut vocabulary = Vocabulary::default();
        let mut counts: Vec<Vec<(u32, f64)>> = Vec::new();
        let mut ids = Vec::new();
        for sentence in list {
            ids.clear();
            terms.each(sentence, |term| ids.push(vocabulary.id(term)));
            ids.sort_unstable();
            counts.push(ids.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as f64)).collect());
        }
        let mut frequency = vec![0.0; vocabulary.len()];
        let mut documents = vec![0.0; vocabulary.len()];
        for &(id, n) in counts.iter().flatten() {
            frequency[id as usize] += n;
            documents[id as usize] += 1.0;
        }
        let idf: Vec<f64> = documents.iter().map(|df| (1.0 + counts.len() as f64 / df).ln()).collect();
        let norm = counts
            .iter()
            .map(|c| c.iter().map(|&(id, n)| (n * idf[id as usize]).powi(2)).sum::<f64>().sqrt())
            .collect();
        let density = counts
            .iter()
            .map(|c| c.iter().map(|c| frequency[c.0 as usize]).sum::<f64>() / c.len().max(8) as f64)
            .collect();
        Self { counts, idf, norm, density }
    }

    /// A sentence's weighted terms, spread out by term number.
    fn vector(&self, i: usize) -> Vec<f64> {
        let mut out = vec![0.0; self.idf.len()];
        for &(id, n) in &self.counts[i] {
            out[id as usize] = n * self.idf[id as usize].powi(2);
        }
        out
    }

    fn cosine(&self, i: usize, vector: &[f64], j: usize) -> f64 {
        let dot: f64 = self.counts[i].iter().map(|&(id, n)| n * vector[id as usize]).sum();
        if dot == 0.0 { 0.0 } else { dot / self.norm[i] / self.norm[j] }
    }
}

#[cfg(test)]
mod tests {
    use super::super::eval;
    use super::*;

    fn shown(text: &str, k: usize) -> Vec<&str> {
        key_sentences(text, k).into_iter().map(|r| &text[r]).collect()
    }

    #[test]
    fn finds_the_facts_of_the_evaluation_set() {
        let set = eval::load();
        for (k, least) in [(3, 21), (5, 28)] {
            let mut found = Vec::new();
            let mut all = 0;
            for text in &set.texts {
                let summary = shown(&text.text, k).join(" ");
                all += text.fact_patterns.len();
                found.extend(text.fact_patterns.iter().filter(|p| regex::Regex::new(p).unwrap().is_match(&summary)));
            }
            assert_eq!(all, 36);
            assert!(found.len() >= least, "{k} sentences hold {} facts, measured {least}", found.len());
        }
    }

    #[test]
    fn sentences_are_in_page_order_and_whole() {
        for text in &eval::load().texts {
            let ranges = key_sentences(&text.text, 5);
            assert!(ranges.windows(2).all(|w| w[0].end <= w[1].start));
            assert!(ranges.len() <= 5 && !ranges.is_empty());
        }
        assert!(key_sentences("", 3).is_empty());
        assert!(key_sentences("Some text. More.", 0).is_empty());
        assert_eq!(shown("Only one here", 3), ["Only one here"]);
    }

    #[test]
    fn headings_captions_and_repeats_are_not_picked() {
        let text = "# Harbour Bridge closes to cars in spring after cracks in its girders\n\nPhoto: Harbour Bridge\n\n\
                    The council voted to close Harbour Bridge to cars from next spring. The bridge has cracks in two girders.\n\n\
                    Share\n\nThe council voted to close Harbour Bridge to cars from next spring.\n\n- A free shuttle runs every ten minutes across the bridge.\n\n\
                    | Harbour Bridge | 1931 |";
        assert_eq!(
            shown(text, 3),
            [
                "The council voted to close Harbour Bridge to cars from next spring.",
                "The bridge has cracks in two girders.",
                "A free shuttle runs every ten minutes across the bridge."
            ]
        );
        // With nothing else on the page, rows and headings are better than silence.
        assert_eq!(shown("# Prices\n\n| Tea | 2 |\n| Coffee | 3 |", 2).len(), 2);
    }

    #[test]
    fn other_languages_have_key_sentences() {
        let german = "Der Stadtrat hat beschlossen, die alte Hafenbrücke im nächsten Frühjahr für Autos zu schließen. Das Wetter war schön. \
                      Die Brücke wurde 1931 gebaut und trägt 14.000 Fahrzeuge am Tag. Die Reparatur der Brücke würde 42 Millionen Euro kosten. Er ging dann.";
        let picked = shown(german, 3);
        assert!(picked[0].starts_with("Der Stadtrat") && picked[2].starts_with("Die Reparatur"), "{picked:?}");
        let chinese = "市议会周二投票决定，从明年春天起关闭旧港桥，禁止汽车通行。天气很好。这座桥建于1931年，每天约有14000辆汽车通过旧港桥。他走了。";
        let picked = shown(chinese, 2);
        assert!(picked[0].starts_with("市议会") && picked[1].contains("1931"), "{picked:?}");
        let arabic = "صوت مجلس المدينة يوم الثلاثاء على إغلاق جسر الميناء القديم أمام السيارات. الطقس جميل. بني الجسر عام 1931 وتمر عليه 14000 سيارة كل يوم في المدينة.";
        assert_eq!(shown(arabic, 2).len(), 2);
        assert!(shown(arabic, 2)[1].contains("1931"));
    }

    #[test]
    fn a_long_page_takes_linear_time() {
        let page = eval::long_page(100_000);
        let start = std::time::Instant::now();
        assert_eq!(key_sentences(&page, 5).len(), 5);
        let took = start.elapsed();
        // A tenth of a second where it counts (release); here there is room for a debug build on a busy machine.
        assert!(took.as_secs() < 5, "{took:?}");
        println!("100,000 words: {took:?}");
    }
}
