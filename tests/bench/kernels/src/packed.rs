//! The products of packed codes over Gemma 4 E2B's shapes.

use core::cell::RefCell;

use sotto_core::cpu::fast::{Activations, Outputs, PackedMatrix};
use sotto_core::kernels::matmul::Store;
use sotto_core::quant::QuantType;

use crate::{random, values};

/// Type, rows, columns, and whether the input lies on a static range's grid.
const SHAPES: [(QuantType, usize, usize, bool); 7] = [
    (QuantType::Int2, 12_288, 1536, true),
    (QuantType::Int2, 1536, 12_288, true),
    (QuantType::Int2, 32_768, 1536, false),
    (QuantType::Int4, 6144, 1536, true),
    (QuantType::Int4, 1536, 6144, true),
    (QuantType::Int4, 6144, 1536, false),
    (QuantType::Int8, 1536, 256, true),
];

struct Product {
    matrix: PackedMatrix,
    scales: Vec<f32>,
    input: Activations,
    on_grid: bool,
    cols: usize,
    y: Vec<f32>,
}

thread_local! {
    static PRODUCTS: RefCell<Vec<Product>> = const { RefCell::new(Vec::new()) };
}

/// Makes the matrices, of random codes.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn make_packed() {
    let mut seed = 3;
    let products = SHAPES.iter().map(|&(quant, rows, cols, on_grid)| {
        let Ok(mut matrix) = PackedMatrix::new("bench", quant, rows, cols) else { std::process::abort() };
        let bytes: Vec<u8> = (0..64 * cols / quant.block_len()).map(|_| random(&mut seed) as u8).collect();
        for first in (0..rows).step_by(64) {
            matrix.write_rows(first, &bytes);
        }
        Product { matrix, scales: vec![0.01; rows], input: Activations::default(), on_grid, cols, y: Vec::new() }
    });
    let products = products.collect();
    PRODUCTS.with_borrow_mut(|all| *all = products);
}

/// Readies the inputs of `tokens` for product `i`, and returns its weights.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn fill_packed(i: usize, tokens: usize) -> usize {
    PRODUCTS.with_borrow_mut(|all| {
        let Some(p) = all.get_mut(i) else { return 0 };
        let x = values(tokens * p.cols, &mut 5);
        match p.on_grid {
            true => p.input.quantize_on_grid(&x, tokens, p.cols, 0.01),
            false => p.input.quantize(&x, tokens, p.cols),
        }
        p.y.resize(tokens * p.scales.len(), 0.0);
        p.cols * p.scales.len()
    })
}

/// Runs product `i` on what [`fill_packed`] made.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn run_packed(i: usize) -> f32 {
    PRODUCTS.with_borrow_mut(|all| {
        let Some(p) = all.get_mut(i) else { return 0.0 };
        let grid = if p.on_grid { 0.02 } else { 0.0 };
        let outputs = Outputs { scales: &p.scales, grid, store: Store::Replace };
        p.matrix.matmul(&p.input, p.input.tokens(), outputs, &mut p.y);
        p.y.iter().sum()
    })
}
