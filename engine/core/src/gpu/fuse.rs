//! A second look at a plan: neighbours that one dispatch can do together.
//!
//! - the norms of heads, rotations and the append to the cache;
//! - the end of a residual branch, the norm that begins the next, and the codes of what it leaves;
//! - a product, the activation after it and the other buffer that it gates, or a soft cap; for one token;
//! - codes made by the products or the attention that compute their values; for one token.

use crate::kernels::head_norms::HeadNorms;
use crate::kernels::matmul::Store;
use crate::kernels::norm_chain::NormChain;
use crate::kernels::quantize::Codes;
use crate::kernels::{Attention, Op, Pairing, RmsNorm, grouped_attention, norm_chain};
use crate::weights::WeightId;

use super::layout::Packing;
use super::plan::{Joined, JoinedProducts, Maker, Plan};

impl<'a> Plan<'a> {
    /// Joins steps that follow each other.
    pub(super) fn fuse(&mut self) {
        let steps = core::mem::take(&mut self.steps);
        let mut fused: Vec<(Joined<'a>, usize)> = Vec::with_capacity(steps.len());
        let (mut at, mut begin) = (0, 0);
        while at < steps.len() {
            let rest = &steps[at..];
            let taken = self.fuse_heads(rest, begin, &mut fused);
            let taken = if taken > 0 { taken } else { self.fuse_norms(rest, &mut fused) };
            let taken = if taken > 0 { taken } else { self.fuse_product(rest, begin, &mut fused) };
            if taken == 0 {
                fused.push(match &rest[0] {
                    (Joined::Op(Op::Attention(op)), done) => (Joined::Attention { op, out_codes: None }, *done),
                    other => other.clone(),
                });
            }
            at += taken.max(1);
            begin = steps[at - 1].1;
        }
        self.find_makers(&mut fused);
        self.steps = fused;
    }

    /// Norms of heads with what follows them.
    fn fuse_heads(&self, rest: &[(Joined<'a>, usize)], begin: usize, fused: &mut Vec<(Joined<'a>, usize)>) -> usize {
        let per_head = |norm: &RmsNorm| norm.is_plain() && norm.width <= grouped_attention::MAX_HEAD_DIM;
        let (joined, taken) = match rest {
            [
                (Joined::Norm { op: query, .. }, _),
                (Joined::Norm { op: key, .. }, _),
                (Joined::Norm { op: value, .. }, _),
                (Joined::RotateAndAppend { query: rotation, append }, done),
                ..,
            ] if per_head(query)
                && per_head(key)
                && per_head(value)
                && (query.out, key.out, value.out) == (rotation.x, append.k, append.v)
                && (key.width, value.width, key.eps, value.eps) == (query.width, query.width, query.eps, query.eps)
                && rotation.head_dim == query.width
                && rotation.pairing == Pairing::Halves
                && (query.weight.is_some(), key.weight.is_some(), value.weight) == (true, true, None)
                && !self.is_read(value.out, *done)
                && self.ends_before_stage(begin, *done) =>
            {
                let own = Some((*key, *value, *append));
                (HeadNorms { query, rotation, own, slot: append.slot }, 4)
            }
            [
                (Joined::Norm { op: query, .. }, _),
                (Joined::Op(Op::Rope(rotation)), done),
                (Joined::Op(Op::Attention(attention)), _),
                ..,
            ] if per_head(query)
                && (query.out, rotation.x) == (rotation.x, attention.q)
                && rotation.head_dim == query.width
                && rotation.pairing == Pairing::Halves
                && query.weight.is_some()
                && self.ends_before_stage(begin, *done) =>
            {
                (HeadNorms { query, rotation, own: None, slot: attention.slot }, 2)
            }
            _ => return 0,
        };
        fused.push((Joined::HeadNorms(joined), rest[taken - 1].1));
        taken
    }

    /// True when a norm over whole rows can join the end of the branch before it.
    pub(super) fn takes(&self, branch: &RmsNorm, next: &RmsNorm) -> bool {
        self.ends_branch(branch) && self.begins_branch(next) && next.x == branch.out
    }

    fn ends_branch(&self, norm: &RmsNorm) -> bool {
        let cols = self.recording.info(norm.x).cols;
        norm.store == Store::Add && norm.weight.is_some() && norm.width == cols && norm_chain::takes(cols)
    }

    fn begins_branch(&self, norm: &RmsNorm) -> bool {
        let cols = self.recording.info(norm.x).cols;
        norm.is_plain() && norm.weight.is_some() && norm.width == cols && norm_chain::takes(cols)
    }

    /// The end of a branch, the norm after it, and the codes of the products that follow. A check may read the residual
    /// stream in between: it is whole by then.
    fn fuse_norms(&self, rest: &[(Joined<'a>, usize)], fused: &mut Vec<(Joined<'a>, usize)>) -> usize {
        let Some((Joined::Norm { op: first, by_products: false }, done)) = rest.first() else { return 0 };
        let (branch, next) = match rest.get(1) {
            _ if self.begins_branch(first) => (None, Some(*first)),
            Some((Joined::Norm { op: next, by_products: false }, _)) if self.takes(first, next) => {
                (Some(*first), Some(*next))
            }
            _ if self.ends_branch(first) => (Some(*first), None),
            _ => return 0,
        };
        let norms = usize::from(branch.is_some()) + usize::from(next.is_some());
        let left = next.or(branch).map(|norm| norm.out);
        let products = match rest.get(norms) {
            Some((Joined::Products(joined), done)) if joined.codes.as_ref().map(|c| c.x) == left => {
                Some((joined.clone(), *done))
            }
            _ => None,
        };
        if norms == 1 && products.is_none() {
            return 0;
        }
        let codes = products.as_ref().and_then(|(joined, _)| joined.codes.clone());
        fused.push((Joined::Chain(NormChain { branch, next, codes }), *done));
        let Some((mut joined, done)) = products else { return norms };
        joined.maker = Maker::Before;
        let at = norms;
        let taken = self.fuse_product_from(joined, done, &rest[at + 1..], rest[at - 1].1, fused);
        norms + taken
    }

    /// A product with a gate on another buffer, or a soft cap.
    fn fuse_product(&self, rest: &[(Joined<'a>, usize)], begin: usize, fused: &mut Vec<(Joined<'a>, usize)>) -> usize {
        match rest.first() {
            Some((Joined::Products(joined), done)) => {
                self.fuse_product_from(joined.clone(), *done, &rest[1..], begin, fused)
            }
            _ => 0,
        }
    }

    fn fuse_product_from(
        &self,
        mut joined: JoinedProducts<'a>,
        done: usize,
        after: &[(Joined<'a>, usize)],
        begin: usize,
        fused: &mut Vec<(Joined<'a>, usize)>,
    ) -> usize {
        let alone = match joined.products.as_slice() {
            [product] if joined.gate.is_none() && product.store == Store::Replace && self.is_packed(product.weight) => {
                Some(product.out)
            }
            _ => None,
        };
        match (alone, after.first()) {
            (Some(out), Some((Joined::Op(Op::GatedActivation(gate)), end)))
                if gate.gate == out
                    && gate.up != out
                    && self.recording.info(gate.up).rows == self.recording.info(out).rows
                    && self.ends_before_stage(begin, *end) =>
            {
                joined.gate = Some(gate);
                fused.push((Joined::Products(joined), done));
                fused.push((Joined::Gate(gate), *end));
                2
            }
            (Some(out), Some((Joined::Op(Op::SoftCap(cap)), end)))
                if cap.x == out && self.ends_before_stage(begin, *end) =>
            {
                joined.cap = Some(cap.cap);
                fused.push((Joined::Products(joined), done));
                fused.push((Joined::Cap(cap), *end));
                2
            }
            _ => {
                fused.push((Joined::Products(joined), done));
                1
            }
        }
    }

    fn is_packed(&self, weight: WeightId) -> bool {
        self.table.get(weight).quant.has_own_scales()
    }

    /// Lets products and attention make the codes that the products after them read.
    fn find_makers(&self, steps: &mut [(Joined<'a>, usize)]) {
        for at in 1..steps.len() {
            let codes = match &steps[at].0 {
                Joined::Products(JoinedProducts { codes: Some(codes), maker: Maker::Quantize, .. })
                    if codes.scales.len() == 1 =>
                {
                    codes.clone()
                }
                _ => continue,
            };
            let before = match &steps[at - 1].0 {
                Joined::Gate(_) if at > 1 => at - 2,
                _ => at - 1,
            };
            let made = match &mut steps[before].0 {
                Joined::Attention { op, out_codes } if self.attention_makes(op, &codes) => {
                    *out_codes = Some(codes);
                    true
                }
                Joined::Products(joined) if self.products_make(joined, &codes) => {
                    joined.out_codes = Some(codes);
                    true
                }
                _ => false,
            };
            if let (true, Joined::Products(joined)) = (made, &mut steps[at].0) {
                joined.maker = Maker::BeforeForOne;
            }
        }
    }

    fn attention_makes(&self, op: &Attention, codes: &Codes) -> bool {
        let kv = &self.recording.kv[op.slot.0 as usize];
        op.out == codes.x
            && grouped_attention::heads_of_group(op.heads, kv, self.recording.info(op.q).rows).is_some()
            && kv.head_dim.is_multiple_of(4 * codes.step as usize)
    }

    fn products_make(&self, joined: &JoinedProducts<'_>, codes: &Codes) -> bool {
        let bytes = |weight: WeightId| {
            let spec = self.table.get(weight);
            4 * (Packing::of_weight(self.table, weight).code_words(spec.cols) * spec.rows) as u64
        };
        joined.gate.is_some_and(|gate| gate.gate == codes.x)
            && joined.products.iter().all(|p| self.is_packed(p.weight))
            // All of its rows in one dispatch.
            && joined.products.iter().map(|p| bytes(p.weight)).sum::<u64>() <= self.limit
    }
}
