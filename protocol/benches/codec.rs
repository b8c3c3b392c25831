//! How many small frames a second does one core decode and encode?

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use muster_protocol::frame::{Command, Decoded, Decoder, Encoder, Frame, Limits, Version, encode};
use std::hint::black_box;

/// About one read of a busy connection: 45 KB.
const FRAMES: usize = 128;

const HEADERS: [(&str, &str); 6] = [
    ("destination", "/topic/prod.service.restart"),
    ("muster-target", "datacenter=a and class=webserver"),
    ("muster-request", "r-7f3a9c0e5b1d4f62"),
    ("reply-to", "/temp-queue/replies"),
    ("muster-reply-within", "30000"),
    ("content-type", "application/json"),
];

fn frame() -> Frame {
    let mut frame = Frame::new(Command::Send).with_body(vec![b'x'; 100]);
    frame.headers.extend(HEADERS);
    frame
}

/// The frames as they are received, and how many the decoder finds in them.
fn wire(frame: &Frame) -> BytesMut {
    let mut wire = BytesMut::new();
    for _ in 0..FRAMES {
        encode(frame, Version::V1_2, &mut wire);
    }
    wire
}

fn decode_all(mut buf: BytesMut) -> usize {
    let mut decoder = Decoder::new(Limits::default());
    decoder.set_version(Version::V1_2);
    let mut frames = 0;
    while let Ok(Some(Decoded::Frame(frame))) = decoder.decode(&mut buf) {
        frames += 1;
        black_box(&frame);
    }
    frames
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let plain = wire(&frame());
    let escaped = wire(&frame().header("muster-note", "a:b"));
    assert_eq!(decode_all(plain.clone()), FRAMES);
    group.bench_function("small", |b| {
        b.iter_batched(|| plain.clone(), decode_all, BatchSize::SmallInput);
    });
    group.bench_function("with an escape", |b| {
        b.iter_batched(|| escaped.clone(), decode_all, BatchSize::SmallInput);
    });
    group.bench_function("and five headers looked up", |b| {
        let all = |mut buf: BytesMut| {
            let mut decoder = Decoder::new(Limits::default());
            decoder.set_version(Version::V1_2);
            while let Ok(Some(Decoded::Frame(frame))) = decoder.decode(&mut buf) {
                for (name, _) in &HEADERS[1..] {
                    black_box(frame.headers.get(name));
                }
            }
        };
        b.iter_batched(|| plain.clone(), all, BatchSize::SmallInput);
    });
    group.bench_function("byte by byte", |b| {
        b.iter(|| {
            let mut decoder = Decoder::new(Limits::default());
            decoder.set_version(Version::V1_2);
            let mut buf = BytesMut::with_capacity(1024);
            for byte in &plain {
                buf.extend_from_slice(&[*byte]);
                let _ = black_box(decoder.decode(&mut buf));
            }
        });
    });
    group.finish();
}

fn encoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(FRAMES as u64));
    let mut out = BytesMut::with_capacity(64 * 1024);
    let made = frame();
    let Ok(Some(Decoded::Frame(received))) = Decoder::new(Limits::default()).decode(&mut wire(&made)) else {
        panic!("what was encoded is decoded")
    };
    for (name, frame) in [("made", &made), ("received", &received)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                for _ in 0..FRAMES {
                    encode(black_box(frame), Version::V1_2, &mut out);
                }
            });
        });
    }
    group.bench_function("by the encoder, no Frame", |b| {
        b.iter(|| {
            out.clear();
            for _ in 0..FRAMES {
                let mut encoder = Encoder::start(Command::Send, Version::V1_2, &mut out);
                for (name, value) in black_box(&HEADERS) {
                    encoder = encoder.header(name, value);
                }
                encoder.finish(black_box(&made.body));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, decode, encoding);
criterion_main!(benches);
