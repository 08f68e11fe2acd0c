//! From a recording to dispatches: operations that can share one are joined, and weights and activations that must lie
//! together for that are found. Plain data, no device.
//!
//! Joined are products of one input (q, k and v; gate and up), for one token also with the norm before them and the
//! activation after them, and the rotations with the append to the cache; then what `fuse.rs` finds.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::kernels::head_norms::HeadNorms;
use crate::kernels::matmul::{MOST, Products, Store};
use crate::kernels::norm_chain::NormChain;
use crate::kernels::packed_matmul::Extras;
use crate::kernels::quantize::Codes;
use crate::kernels::{Argmax, Attention, Embed, GatedActivation, KvAppend, MatMul, Op, RmsNorm, Rope, Sample, SoftCap};
use crate::recording::{BufferId, Recording};
use crate::weights::{WeightId, WeightTable};

use super::layout::Packing;
use super::shader::{Access, Dispatch, GridId, Planner, Resource};

/// Operations that become one dispatch, or one for each shard.
#[derive(Debug, Clone)]
pub(super) enum Joined<'a> {
    Op(&'a Op),
    /// Left out for one token, when the products that follow do it themselves.
    Norm {
        op: &'a RmsNorm,
        by_products: bool,
    },
    Products(JoinedProducts<'a>),
    /// Left out for one token: the products before did it.
    Gate(&'a GatedActivation),
    /// Left out for one token: the product before did it.
    Cap(&'a SoftCap),
    RotateAndAppend {
        query: &'a Rope,
        append: &'a KvAppend,
    },
    HeadNorms(HeadNorms<'a>),
    Chain(NormChain<'a>),
    /// For one token it also makes the codes of its output.
    Attention {
        op: &'a Attention,
        out_codes: Option<Codes>,
    },
}

/// Products of one input.
#[derive(Debug, Clone)]
pub(super) struct JoinedProducts<'a> {
    pub(super) norm: Option<&'a RmsNorm>,
    pub(super) products: Vec<&'a MatMul>,
    pub(super) gate: Option<&'a GatedActivation>,
    /// Codes of their input, for products with static ranges.
    pub(super) codes: Option<Codes>,
    pub(super) maker: Maker,
    /// Codes that they make of their output, for one token.
    pub(super) out_codes: Option<Codes>,
    pub(super) cap: Option<f32>,
}

/// Which dispatch makes the codes of products' input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    /// One of its own.
    Quantize,
    /// The one before.
    Before,
    /// The one before for one token, else one of its own.
    BeforeForOne,
}

/// The joined operations of a recording, in order.
pub(super) struct Plan<'a> {
    pub(super) recording: &'a Recording,
    pub(super) table: &'a WeightTable,
    /// With the number of the recording's operations done by then.
    pub(super) steps: Vec<(Joined<'a>, usize)>,
    /// Most bytes of a binding.
    pub(super) limit: u64,
    /// Weights whose rows form one matrix.
    pub(super) matrices: Vec<Vec<WeightId>>,
    /// Activations that share a buffer; each is in one group.
    pub(super) shared: Vec<Vec<BufferId>>,
    /// Buffers of activations as codes, indexed by [`GridId`]: the activation, its static scales, words of a row.
    pub(super) grids: Vec<Codes>,
}

/// A dispatch, and the number of the recording's operations done once it has run.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) dispatch: Dispatch,
    pub(super) ops_done: usize,
}

impl<'a> Plan<'a> {
    /// Joins what can be joined. Joined weights take at most `limit` bytes, so that they fit one binding. Rows of the tables in
    /// `outside` are not gathered by the device: see [`written_before`].
    pub(super) fn new(
        recording: &'a Recording,
        table: &'a WeightTable,
        limit: u64,
        outside: &BTreeSet<WeightId>,
    ) -> Self {
        let mut plan = Self {
            recording,
            table,
            steps: Vec::new(),
            limit,
            matrices: Vec::new(),
            shared: Vec::new(),
            grids: Vec::new(),
        };
        let ops = &recording.ops;
        let mut i = 0;
        while i < ops.len() {
            // Nothing is joined across a point where a check reads a buffer.
            let end = recording.stages.iter().map(|s| s.2).filter(|s| *s > i).min().unwrap_or(ops.len());
            i += match &ops[i] {
                Op::RmsNorm(norm) => plan.join_norm(norm, i, end, limit),
                Op::MatMul(_) => plan.join_products(None, i, end, limit),
                Op::Rope(query) => plan.join_rotations(query, i, end),
                Op::Embed(op) if outside.contains(&op.table) => 1,
                op => plan.push(Joined::Op(op), i, 1),
            };
        }
        plan.fuse();
        plan.find_shared();
        plan.find_matrices();
        plan
    }

    fn push(&mut self, joined: Joined<'a>, at: usize, count: usize) -> usize {
        self.steps.push((joined, at + count));
        count
    }

    /// The products at `from` that share their input.
    fn products_of(&self, x: BufferId, from: usize, end: usize) -> Vec<&'a MatMul> {
        let ops = self.recording.ops[from..end].iter();
        ops.map_while(|op| match op {
            Op::MatMul(product) if product.x == x => Some(product),
            _ => None,
        })
        .collect()
    }

    fn join_norm(&mut self, norm: &'a RmsNorm, at: usize, end: usize, limit: u64) -> usize {
        let products = self.products_of(norm.out, at + 1, end);
        let after = at + 1 + products.len();
        let by_products = !products.is_empty()
            && norm.weight.is_some()
            && norm.is_plain()
            && norm.width == self.recording.info(norm.x).cols
            && products.iter().all(|p| p.out != norm.x && !self.table.get(p.weight).quant.has_own_scales())
            && !self.is_read(norm.out, after)
            // The end of the branch before takes it along.
            && !matches!(at.checked_sub(1).map(|i| &self.recording.ops[i]), Some(Op::RmsNorm(b)) if self.takes(b, norm));
        self.push(Joined::Norm { op: norm, by_products }, at, 1);
        let mut i = at + 1;
        while i < after {
            let used = if by_products { Some(norm) } else { None };
            i += self.join_products(used, i, after, limit);
        }
        i - at
    }

    fn join_products(&mut self, norm: Option<&'a RmsNorm>, at: usize, end: usize, limit: u64) -> usize {
        let ops = &self.recording.ops;
        let Op::MatMul(first) = &ops[at] else { return 0 };
        let packing = |id: WeightId| (Packing::of_weight(self.table, id), self.table.get(id).cols);
        let bytes = |id: WeightId| {
            let (packing, cols) = packing(id);
            4 * (packing.code_words(cols).max(packing.scale_words(cols)) * self.table.get(id).rows) as u64
        };
        let alone = |p: &MatMul| p.store == Store::Replace && self.uses(p.weight) == 1;
        let mut products: Vec<&MatMul> = Vec::new();
        let mut total = 0;
        for product in self.products_of(first.x, at, end).into_iter().take(MOST) {
            total += bytes(product.weight);
            let fits = alone(first)
                && alone(product)
                && packing(product.weight) == packing(first.weight)
                && products.iter().all(|p| p.out != product.out)
                && total <= limit;
            if !products.is_empty() && !fits {
                break;
            }
            products.push(product);
        }
        let count = products.len();
        let gate = match (products.as_slice(), ops.get(at + count)) {
            ([gate, up], Some(Op::GatedActivation(op)))
                if self.ends_before_stage(at, at + count + 1)
                    && (op.gate, op.up, op.first_column) == (gate.out, up.out, 0)
                    && self.table.get(gate.weight).rows == self.table.get(up.weight).rows
                    && !self.is_read(op.up, at + count + 1) =>
            {
                Some(op)
            }
            _ => None,
        };
        let codes = self.codes_for(&products);
        let joined = JoinedProducts { norm, products, gate, codes, maker: Maker::Quantize, out_codes: None, cap: None };
        self.push(Joined::Products(joined), at, count);
        if let Some(gate) = gate {
            self.push(Joined::Gate(gate), at + count, 1);
        }
        count + usize::from(gate.is_some())
    }

    /// The codes that products with static ranges read, in a buffer of their own or one that serves the same shape.
    fn codes_for(&mut self, products: &[&MatMul]) -> Option<Codes> {
        let first = products.first()?;
        let mut scales: Vec<WeightId> = Vec::new();
        for range in products.iter().filter_map(|p| p.range) {
            if !scales.contains(&range.input) {
                scales.push(range.input);
            }
        }
        if scales.is_empty() {
            return None;
        }
        let packing = Packing::of_weight(self.table, first.weight);
        let step = (8 / packing.bits().min(8)) as u32;
        let words = packing.units(self.table.get(first.weight).cols) as u32 * 4 * step;
        let mut codes = Codes { x: first.x, grid: GridId(0), scales, step, words };
        let fits = |g: &Codes| (g.x, g.step, g.scales.len()) == (codes.x, codes.step, codes.scales.len());
        let number = self.grids.iter().position(fits).unwrap_or_else(|| {
            self.grids.push(codes.clone());
            self.grids.len() - 1
        });
        codes.grid = GridId(number as u32);
        Some(codes)
    }

    fn join_rotations(&mut self, query: &'a Rope, at: usize, end: usize) -> usize {
        let ops = &self.recording.ops[at..end];
        if let [op, Op::Rope(key), Op::KvAppend(append), ..] = ops
            && (key.head_dim, key.pairing, key.table) == (query.head_dim, query.pairing, query.table)
            && key.x == append.k
            && !self.is_read(key.x, at + 3)
            && matches!(op, Op::Rope(_))
        {
            return self.push(Joined::RotateAndAppend { query, append }, at, 3);
        }
        self.push(Joined::Op(&self.recording.ops[at]), at, 1)
    }

    /// True when no stage lies inside operations `from .. to`.
    pub(super) fn ends_before_stage(&self, from: usize, to: usize) -> bool {
        self.recording.stages.iter().all(|s| s.2 <= from || s.2 >= to)
    }

    /// True when an operation from `from` on reads what is in `id` before another overwrites it.
    pub(super) fn is_read(&self, id: BufferId, from: usize) -> bool {
        for op in &self.recording.ops[from..] {
            if reads(op).contains(&id) {
                return true;
            }
            if writes(op) == Some(id) {
                return false;
            }
        }
        self.recording.logits == Some(id)
    }

    /// How many operations use a weight as a matrix.
    fn uses(&self, id: WeightId) -> usize {
        self.recording
            .ops
            .iter()
            .filter(|op| match op {
                Op::MatMul(op) => op.weight == id,
                Op::Embed(op) => op.table == id,
                _ => false,
            })
            .count()
    }

    fn find_shared(&mut self) {
        let mut groups: Vec<Vec<BufferId>> =
            (0..self.recording.buffers.len()).map(|i| vec![BufferId(i as u32)]).collect();
        let mut unite = |ids: &[BufferId]| {
            let mut united = Vec::new();
            groups.retain(|group| {
                let touched = ids.iter().any(|id| group.contains(id));
                if touched {
                    united.extend_from_slice(group);
                }
                !touched
            });
            united.sort_by_key(|id| id.0);
            groups.push(united);
        };
        for (joined, _) in &self.steps {
            match joined {
                Joined::Products(joined) => unite(&joined.products.iter().map(|p| p.out).collect::<Vec<_>>()),
                Joined::RotateAndAppend { query, append } => unite(&[query.x, append.k, append.v]),
                Joined::HeadNorms(HeadNorms { query, own: Some((key, value, _)), .. }) => {
                    unite(&[query.x, key.x, value.x]);
                }
                _ => {}
            }
        }
        self.shared = groups;
    }

    fn find_matrices(&mut self) {
        let mut seen: BTreeMap<WeightId, ()> = BTreeMap::new();
        for (joined, _) in &self.steps {
            let weights: Vec<WeightId> = match joined {
                Joined::Products(joined) => joined.products.iter().map(|p| p.weight).collect(),
                Joined::Op(Op::Embed(op)) => vec![op.table],
                _ => Vec::new(),
            };
            // A weight of several operations is a matrix of its own, once.
            if weights.iter().any(|id| seen.insert(*id, ()).is_none()) {
                self.matrices.push(weights);
            }
        }
    }

    /// The weights of each matrix that has biases, with theirs.
    pub(super) fn biases(&self) -> Vec<Vec<(WeightId, Option<WeightId>)>> {
        let mut biases = Vec::new();
        for (joined, _) in &self.steps {
            if let Joined::Products(JoinedProducts { products, .. }) = joined
                && products.iter().any(|p| p.bias.is_some())
            {
                biases.push(products.iter().map(|p| (p.weight, p.bias)).collect());
            }
        }
        biases
    }

    /// The dispatches of the steps that `planner` is for.
    pub(super) fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Planned>> {
        let mut all = Vec::new();
        for (joined, ops_done) in &self.steps {
            let dispatches = match joined {
                Joined::Norm { op, by_products: true } if planner.is_single(op.x) => Vec::new(),
                Joined::Gate(op) if planner.is_single(op.gate) => Vec::new(),
                Joined::Cap(op) if planner.is_single(op.x) => Vec::new(),
                Joined::Norm { op, .. } => op.dispatches(planner)?,
                Joined::Gate(op) => op.dispatches(planner)?,
                Joined::Cap(op) => op.dispatches(planner)?,
                Joined::Products(joined) => joined.dispatches(planner)?,
                Joined::RotateAndAppend { query, append } => append.dispatches_rotated(query, planner)?,
                Joined::HeadNorms(joined) => joined.dispatches(planner)?,
                Joined::Chain(joined) => joined.dispatches(planner)?,
                Joined::Attention { op, out_codes } => op.dispatches(out_codes.as_ref(), planner)?,
                Joined::Op(Op::Attention(op)) => op.dispatches(None, planner)?,
                Joined::Op(Op::Embed(op)) => op.dispatches(planner)?,
                Joined::Op(Op::RmsNorm(op)) => op.dispatches(planner)?,
                Joined::Op(Op::MatMul(op)) => {
                    Products { norm: None, products: &[op], gate: None, extras: Extras::default() }
                        .dispatches(planner)?
                }
                Joined::Op(Op::Rope(op)) => op.dispatches(planner)?,
                Joined::Op(Op::KvAppend(op)) => op.dispatches(planner)?,
                Joined::Op(Op::GatedActivation(op)) => op.dispatches(planner)?,
                Joined::Op(Op::LastRow(op)) => op.dispatches(planner)?,
                Joined::Op(Op::SoftCap(op)) => op.dispatches(planner)?,
            };
            for dispatch in dispatches {
                self.check(&dispatch)?;
                all.push(Planned { dispatch, ops_done: *ops_done });
            }
        }
        Ok(all)
    }

    /// The choice of a token after the last operation: the likeliest, and one that is drawn.
    pub(super) fn choices(&self, planner: &Planner<'_>) -> Result<[Vec<Planned>; 2]> {
        let Some(logits) = self.recording.logits else { return Ok([Vec::new(), Vec::new()]) };
        let ops_done = self.recording.ops.len();
        let dispatches = [Argmax { logits }.dispatches(planner)?, Sample { logits }.dispatches(planner)?];
        Ok(dispatches.map(|all| all.into_iter().map(|dispatch| Planned { dispatch, ops_done }).collect()))
    }

    /// WebGPU forbids one buffer to be read and written through different bindings of a dispatch.
    fn check(&self, dispatch: &Dispatch) -> Result<()> {
        let group = |r: &Resource| match r {
            Resource::Buffer(id) | Resource::Shared(id) => self.shared.iter().position(|g| g.contains(id)),
            _ => None,
        };
        let bound: Vec<_> = dispatch
            .resources
            .iter()
            .zip(dispatch.shader.bindings)
            .filter_map(|(r, (_, access))| group(r).map(|g| (g, *access)))
            .collect();
        for (i, (g, access)) in bound.iter().enumerate() {
            if bound[i + 1..].iter().any(|(other, a)| other == g && (*a == Access::Write || *access == Access::Write)) {
                return Err(Error::unsupported(
                    dispatch.shader.name(),
                    "its input and its output would share a buffer on the graphics device",
                ));
            }
        }
        Ok(())
    }
}

impl JoinedProducts<'_> {
    /// The products' dispatches, after the one that makes the codes of their input if no other does.
    fn dispatches(&self, planner: &Planner<'_>) -> Result<Vec<Dispatch>> {
        let Some(first) = self.products.first() else { return Ok(Vec::new()) };
        let is_single = planner.is_single(first.x);
        let makes_codes = match self.maker {
            Maker::Quantize => true,
            Maker::Before => false,
            Maker::BeforeForOne => !is_single,
        };
        let mut all = Vec::new();
        if let (true, Some(codes)) = (makes_codes, &self.codes) {
            all = codes.dispatches(planner)?;
        }
        let (norm, gate, cap, out_codes) = match is_single {
            true => (self.norm, self.gate, self.cap, self.out_codes.as_ref()),
            false => (None, None, None, None),
        };
        let extras = Extras { codes: self.codes.as_ref(), out_codes, cap };
        all.extend(Products { norm, products: &self.products, gate, extras }.dispatches(planner)?);
        Ok(all)
    }
}

/// The gathers from tables in `outside`, whose rows are written before a step begins. Fails where that would be too early, since
/// an operation before uses the same buffer.
pub(super) fn written_before(recording: &Recording, outside: &BTreeSet<WeightId>) -> Result<Vec<Embed>> {
    let mut gathers = Vec::new();
    for (i, op) in recording.ops.iter().enumerate() {
        let Op::Embed(embed) = op else { continue };
        if !outside.contains(&embed.table) {
            continue;
        }
        let uses = |op: &Op| reads(op).contains(&embed.out) || writes(op) == Some(embed.out);
        if recording.ops[..i].iter().any(uses) {
            let name = &recording.info(embed.out).name;
            return Err(Error::unsupported(
                format!("a table outside of the graphics device for {name}"),
                "something else is in that buffer when a step begins",
            ));
        }
        gathers.push(embed.clone());
    }
    Ok(gathers)
}

fn reads(op: &Op) -> Vec<BufferId> {
    match op {
        Op::Embed(_) => vec![],
        Op::RmsNorm(op) if op.store == Store::Add => vec![op.x, op.out],
        Op::RmsNorm(op) => vec![op.x],
        Op::MatMul(op) if op.store == Store::Add => vec![op.x, op.out],
        Op::MatMul(op) => vec![op.x],
        Op::Rope(op) => vec![op.x],
        Op::KvAppend(op) => vec![op.k, op.v],
        Op::Attention(op) => vec![op.q],
        Op::GatedActivation(op) => vec![op.gate, op.up],
        Op::LastRow(op) => vec![op.x],
        Op::SoftCap(op) => vec![op.x],
    }
}

fn writes(op: &Op) -> Option<BufferId> {
    match op {
        Op::Embed(op) => Some(op.out),
        Op::RmsNorm(op) => Some(op.out),
        Op::MatMul(op) => Some(op.out),
        Op::Rope(op) => Some(op.x),
        Op::KvAppend(_) => None,
        Op::Attention(op) => Some(op.out),
        Op::GatedActivation(op) => Some(op.gate),
        Op::LastRow(op) => Some(op.out),
        Op::SoftCap(op) => Some(op.x),
    }
}
