//! Rows from outside are those from inside, on both executors, over chunks, resumes and failures.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use super::*;
use crate::cpu::{CpuExecutor, CpuPath};
use crate::formats::disk::{DiskFiles, DiskModel};
use crate::generate::{Executor, Generator, Progress};
use crate::gpu::testing::{Random, open, weights};
use crate::gpu::{Gpu, GpuExecutor, Mapped, Options};
use crate::model::{Network, Stages};
use crate::quant::QuantType;
use crate::recording::{BufferId, Recording, Rows};
use crate::sampler::{Sampler, SamplerOptions};
use crate::weights::{Location, WeightStream};

/// A file in memory.
struct Memory(Vec<u8>);

impl ReadFiles for Memory {
    fn read(&mut self, _: usize, offset: u64, into: &mut [u8]) -> Result<()> {
        let bytes = self.0.get(offset as usize..offset as usize + into.len());
        into.copy_from_slice(bytes.ok_or_else(|| Error::format("file", "it ended"))?);
        Ok(())
    }
}

fn spec(name: &str, quant: QuantType, (rows, cols): (usize, usize), role: WeightRole, offset: usize) -> WeightSpec {
    let len = (rows * cols / quant.block_len() * quant.block_bytes()) as u64;
    let location = Location { file: 0, offset: offset as u64, len };
    WeightSpec { name: name.into(), rows, cols, quant, role, location, scales: None, adapter: None }
}

#[test]
fn a_gathered_row_has_the_values_of_the_whole_table() {
    let (rows, cols) = (7, 512);
    for quant in QuantType::SELF_CONTAINED.into_iter().chain([QuantType::Int2, QuantType::Int4, QuantType::Int8]) {
        // Something else lies before the table, and its scales after it.
        let (bytes, mut values) = weights(quant, rows, cols, 5);
        let mut file = vec![0xff; 13];
        let mut of = spec("table", quant, (rows, cols), WeightRole::Gathered, file.len());
        file.extend(&bytes);
        let mut table = WeightTable::default();
        if quant.has_own_scales() {
            let groups = 4;
            let scales = Random::new(3).values(rows * groups);
            let at = file.len();
            file.extend(scales.iter().flat_map(|s| s.to_le_bytes()));
            of.scales =
                Some(table.add(spec("scales", QuantType::F32, (rows, groups), WeightRole::Scales, at)).unwrap());
            values.chunks_exact_mut(cols).zip(scales.chunks_exact(groups)).for_each(|(row, s)| apply_scales(row, s));
        }
        let id = table.add(of).unwrap();
        let mut outside = OutsideRows::new(&table, &tables(&table, 0), Box::new(Memory(file))).unwrap();
        let tokens = [6, 0, 3, 3, 6];
        for (first_column, width) in [(0, cols), (0, 5), (17, 100), (cols - 1, 1)] {
            for last_only in [false, true] {
                let op = Embed { table: id, first_column, out: BufferId(0), scale: 1.5 };
                let wanted = if last_only { &tokens[4..] } else { &tokens[..] };
                let mut out = vec![f32::NAN; wanted.len() * width];
                outside.gather(&op, width, &tokens, &mut out).unwrap();
                let row = |token: &u32| &values[*token as usize * cols + first_column..][..width];
                let expected: Vec<f32> = wanted.iter().flat_map(row).map(|v| v * 1.5).collect();
                assert_eq!(out, expected, "{quant:?}, {width} columns from {first_column}");
            }
        }
    }
}

#[test]
fn only_large_tables_that_are_gathered_lie_outside_with_scales_that_nothing_else_reads() {
    let mut table = WeightTable::default();
    let scales =
        |table: &mut WeightTable| table.add(spec("scales", QuantType::F32, (4, 2), WeightRole::Scales, 0)).unwrap();
    let (own, shared) = (scales(&mut table), scales(&mut table));
    let mut add = |role, cols, scales| {
        let spec = WeightSpec { scales: Some(scales), ..spec("w", QuantType::Int8, (4, cols), role, 0) };
        table.add(spec).unwrap()
    };
    let large = add(WeightRole::Gathered, 64, own);
    let small = add(WeightRole::Gathered, 32, shared);
    add(WeightRole::Matrix, 64, shared);
    assert_eq!(tables(&table, 256), BTreeSet::from([own, large]));
    assert_eq!(tables(&table, 257), BTreeSet::new());
    assert_eq!(tables(&table, 0), BTreeSet::from([own, large, small]));
    // The scales of the small one stay inside: it cannot lie outside without them.
    let refused = OutsideRows::new(&table, &tables(&table, 0), Box::new(Memory(Vec::new())));
    assert!(refused.is_err_and(|e| e.to_string().contains("scales")));
}

#[test]
fn what_cannot_be_read_names_its_table() {
    let mut table = WeightTable::default();
    let id = table.add(spec("ple.weight", QuantType::F32, (3, 4), WeightRole::Gathered, 0)).unwrap();
    let values = [0.0, 1.0, 2.0, 3.0, 4.0, f32::NAN, 6.0, 7.0f32];
    let file: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut outside = OutsideRows::new(&table, &tables(&table, 0), Box::new(Memory(file))).unwrap();
    let op = Embed { table: id, first_column: 0, out: BufferId(0), scale: 1.0 };
    let mut out = [0.0; 4];
    for (token, says) in [(1, "damaged"), (2, "row 2"), (3, "vocabulary"), (u32::MAX, "vocabulary")] {
        let error = outside.gather(&op, 4, &[token], &mut out).unwrap_err().to_string();
        assert!(error.contains(says) && (token > 2 || error.contains("ple.weight")), "{error}");
    }
    // Nothing of a failed read is taken for a row.
    outside.gather(&op, 4, &[0], &mut out).unwrap();
    assert_eq!(out, [0.0, 1.0, 2.0, 3.0]);
    let error = outside.gather(&Embed { first_column: 1, ..op }, 4, &[0], &mut out).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}

/// A model's files that can be made to fail.
struct Failing(DiskFiles, Rc<Cell<bool>>);

impl ReadFiles for Failing {
    fn read(&mut self, file: usize, offset: u64, into: &mut [u8]) -> Result<()> {
        match self.1.get() {
            false => self.0.read(file, offset, into),
            true => Err(Error::format("the disk", "it was pulled out")),
        }
    }
}

/// A small Gemma 4 as Google packs it.
struct Gemma {
    disk: DiskModel,
    network: Network,
    fails: Rc<Cell<bool>>,
}

const OPTIONS: fn() -> Options = || Options { max_tokens: 16, max_positions: 256, ..Options::default() };

impl Gemma {
    fn open() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gemma4/mobile-e2b");
        let disk = DiskModel::open(&folder).unwrap();
        let network = Network::open(&disk.description, Stages::Dropped).unwrap();
        Self { disk, network, fails: Rc::default() }
    }

    fn rows(&self) -> Option<OutsideRows> {
        let files = Failing(self.disk.files().unwrap(), Rc::clone(&self.fails));
        let weights = &self.network.weights;
        Some(OutsideRows::new(weights, &tables(weights, 0), Box::new(files)).unwrap())
    }

    async fn on(&self, gpu: Option<&Gpu>, options: Options, rows: Option<OutsideRows>) -> Result<Generator> {
        let Network { recording, weights } = &self.network;
        let outside = rows.as_ref().map(OutsideRows::weights).unwrap_or_default();
        let mut executor = match gpu {
            None => {
                let cpu = CpuExecutor::new(recording.clone(), weights, CpuPath::Reference)?;
                Executor::Cpu(Box::new(cpu.with_outside(rows)))
            }
            Some(gpu) => {
                Executor::Gpu(Box::new(GpuExecutor::with_outside(gpu, recording, weights, options, rows).await?))
            }
        };
        self.disk.stream_without(&outside, &mut executor)?;
        Ok(Generator::new(executor, recording.clone(), 256))
    }
}

#[test]
fn rows_that_are_read_into_the_devices_own_memory_are_those_that_stream() -> Result<()> {
    let Some(gpu) = open() else { return Ok(()) };
    let gemma = Gemma::open();
    let weights = &gemma.network.weights;
    let mut files = gemma.disk.files()?;
    pollster::block_on(async {
        // In one piece, and in shards.
        for binding_bytes in [u64::MAX, 1 << 14] {
            let options = Options { binding_bytes, ..OPTIONS() };
            let mut streamed = gemma.on(Some(&gpu), options.clone(), None).await?;
            let mut executor = GpuExecutor::allocate(&gpu, &gemma.network.recording, weights, options, None).await?;
            executor.ready().await?;
            let mut stream = WeightStream::new(weights, 0, 0);
            let (mut taken, mut pushed) = (0, 0);
            while let Some(wanted) = stream.wanted() {
                let read = |offset, room: &mut Mapped| {
                    let mut bytes = vec![0; room.len()];
                    files.read(0, offset, &mut bytes)?;
                    room.copy_from_slice(&bytes);
                    Ok(())
                };
                match executor.take_rows(weights, &mut stream, 1000, read).await? {
                    0 => {
                        let mut bytes = vec![0; (wanted.end - wanted.start) as usize];
                        files.read(0, wanted.start, &mut bytes)?;
                        stream.skip_to(wanted.start)?;
                        stream.push(&bytes, &mut executor)?;
                        pushed += bytes.len() as u64;
                    }
                    more => taken += more,
                }
            }
            stream.finish()?;
            executor.settle().await?;
            assert!(taken > pushed, "{taken} bytes were taken, {pushed} went the other way");
            let recording = gemma.network.recording.clone();
            let mut direct = Generator::new(Executor::Gpu(Box::new(executor)), recording, 256);
            for generator in [&mut streamed, &mut direct] {
                generator.start(&prompt())?;
            }
            assert_eq!(logits(&mut streamed).await?, logits(&mut direct).await?);
        }
        Ok(())
    })
}

/// Longer than a chunk of either executor, ids repeated.
fn prompt() -> Vec<u32> {
    (0..41).map(|i| i * i % 37 * 13).collect()
}

async fn logits(generator: &mut Generator) -> Result<Vec<f32>> {
    loop {
        if let Progress::Logits(logits) = generator.advance().await? {
            return Ok(logits);
        }
    }
}

async fn same_inside_and_outside(gpu: Option<&Gpu>) -> Result<()> {
    let gemma = Gemma::open();
    let mut inside = gemma.on(gpu, OPTIONS(), None).await?;
    let mut outside = gemma.on(gpu, OPTIONS(), gemma.rows()).await?;
    let mut all = Vec::new();
    for generator in [&mut inside, &mut outside] {
        generator.start(&prompt())?;
        let first = logits(generator).await?;
        // On a device with everything inside the choice stays there.
        let ids = generator.write(&mut Sampler::new(SamplerOptions::default())?, 7, 20).await?;
        generator.start(&[&prompt()[..], &[7], &ids[..4], &[11]].concat())?;
        all.push((first, ids, logits(generator).await?));
    }
    let (a, b) = (&all[0], &all[1]);
    assert_eq!(a.1, b.1, "ids");
    for (a, b) in [(&a.0, &b.0), (&a.2, &b.2)] {
        let error = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= if gpu.is_some() { 1e-4 } else { 0.0 }, "logits differ by {error}");
    }
    Ok(())
}

#[test]
fn an_answer_is_the_same_with_tables_outside() {
    pollster::block_on(same_inside_and_outside(None)).unwrap();
    let Some(gpu) = open() else { return };
    pollster::block_on(same_inside_and_outside(Some(&gpu))).unwrap();
}

async fn goes_on_after_a_failed_read(gpu: Option<&Gpu>) -> Result<()> {
    let gemma = Gemma::open();
    let mut generator = gemma.on(gpu, OPTIONS(), gemma.rows()).await?;
    generator.start(&prompt())?;
    let before = logits(&mut generator).await?;
    assert!(generator.accept(3));
    gemma.fails.set(true);
    let error = generator.advance().await.unwrap_err();
    let (is_unread, error) = (matches!(error, Error::Unread { .. }), error.to_string());
    assert!(is_unread && error.contains("embed_tokens_per_layer") && error.contains("pulled out"), "{error}");
    gemma.fails.set(false);
    generator.start(&prompt())?;
    assert_eq!(logits(&mut generator).await?, before);
    Ok(())
}

#[test]
fn a_request_fails_with_the_table_s_name_and_the_next_one_does_not() {
    pollster::block_on(goes_on_after_a_failed_read(None)).unwrap();
    let Some(gpu) = open() else { return };
    pollster::block_on(goes_on_after_a_failed_read(Some(&gpu))).unwrap();
}

#[test]
fn a_device_without_room_for_all_weights_runs_them_with_tables_outside() {
    let Some(gpu) = open() else { return };
    let gemma = Gemma::open();
    let on = |most, rows| {
        let options = Options { weight_bytes: most, ..OPTIONS() };
        pollster::block_on(gemma.on(Some(&gpu), options, rows))
    };
    let bytes = |mut generator: Generator| match generator.executor() {
        Executor::Gpu(gpu) => gpu.weight_bytes(),
        Executor::Cpu(_) => 0,
    };
    let all = bytes(on(u64::MAX, None).unwrap());
    let rest = bytes(on(u64::MAX, gemma.rows()).unwrap());
    // 512 rows of 48 bytes and of 6 scales.
    assert_eq!(all - rest, 512 * (48 + 24));
    assert!(matches!(on(all - 1, None).err(), Some(Error::Gpu(_))));
    assert!(on(all, None).is_ok() && on(rest, gemma.rows()).is_ok());
    assert!(matches!(on(rest - 1, gemma.rows()).err(), Some(Error::Gpu(_))));
}

#[test]
fn a_choice_cannot_stay_on_a_device_that_lacks_rows() {
    let Some(gpu) = open() else { return };
    let gemma = Gemma::open();
    let mut generator = pollster::block_on(gemma.on(Some(&gpu), OPTIONS(), gemma.rows())).unwrap();
    let Executor::Gpu(device) = generator.executor() else { panic!("not on the device") };
    device.launch(0, Some(1), None).unwrap();
    let taken = device.launch(1, None, None);
    assert!(matches!(taken, Err(Error::Unsupported { .. })), "{taken:?}");
    assert!(!generator.can_choose(&SamplerOptions::default()));
}

#[test]
fn a_row_is_not_written_over_what_a_step_still_reads() {
    let Some(gpu) = open() else { return };
    let mut table = WeightTable::default();
    let id = table.add(spec("w", QuantType::F32, (4, 8), WeightRole::Gathered, 0)).unwrap();
    let mut recording = Recording::default();
    let out = recording.buffer("x", Rows::PerToken, 8).unwrap();
    recording.push(Embed { table: id, first_column: 0, out, scale: 1.0 });
    recording.push(Embed { table: id, first_column: 0, out, scale: 2.0 });
    let rows = OutsideRows::new(&table, &tables(&table, 0), Box::new(Memory(Vec::new()))).unwrap();
    let recording = recording.into();
    let made = GpuExecutor::with_outside(&gpu, &recording, &table, OPTIONS(), Some(rows));
    assert!(matches!(pollster::block_on(made).err(), Some(Error::Unsupported { .. })));
}
