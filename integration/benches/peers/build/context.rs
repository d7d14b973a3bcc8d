//! The context that is built: 20,000 files of about 200 MB, most of them text that compresses as source
//! code does, every tenth noise; the same on every run.

use std::fs;
use std::path::Path;

const FILES: u64 = 20_000;

/// Six steps, two stages, and every kind of change that a layer can have.
const DOCKERFILE: &str = "ARG BASE
FROM $BASE AS build
COPY src /src
RUN find /src -name '*7.txt' -exec sed -i s/a/b/ {} +
RUN mkdir /out && cat /src/d00*/e1/*.txt > /out/all && cp -r /src/d02* /out/
RUN rm -rf /src/d19* && touch /src/done && chown -R 1000:1000 /src/d01*
FROM $BASE
COPY --from=build /out /app
COPY --from=build --chown=1000:1000 /src /src
ENV MODE=bench
CMD [\"ls\"]
";

/// Writes the context; `nonce` makes one file of it differ, so that no builder knows it.
pub(crate) fn write(folder: &Path, nonce: usize) {
    for n in 0..FILES {
        let place = folder.join(format!("src/d{:03}/e{}", n / 100, n / 20 % 5));
        fs::create_dir_all(&place).unwrap();
        let mut noise = Noise(n + 1);
        match n % 10 {
            9 => fs::write(place.join(format!("f{n:05}.bin")), noise.bytes()),
            _ => fs::write(place.join(format!("f{n:05}.txt")), noise.text()),
        }
        .unwrap();
    }
    change(folder, nonce);
    fs::write(folder.join("Dockerfile"), DOCKERFILE).unwrap();
}

/// Changes the one file.
pub(crate) fn change(folder: &Path, nonce: usize) {
    fs::write(folder.join("src/d000/changed.txt"), format!("{nonce}\n")).unwrap();
}

/// What the first command of a workspace says.
pub(crate) const WORD: &str = "well-begun";

/// Makes a workspace of the context.
pub(crate) fn write_workspace(folder: &Path, base: &str) {
    let config = format!(
        r#"{{"build": {{"dockerfile": "Dockerfile", "args": {{"BASE": "{base}"}}}}, "postCreateCommand": "echo {WORD}"}}"#
    );
    fs::write(folder.join(".devcontainer.json"), config).unwrap();
}

/// A Dockerfile alone, of so many commands that do nothing, after something that nobody knows.
pub(crate) fn write_commands(folder: &Path, count: usize, nonce: usize) {
    fs::create_dir_all(folder).unwrap();
    let mut text = format!("ARG BASE\nFROM $BASE\nENV NONCE={nonce}\n");
    for n in 0..count {
        text.push_str(&format!("RUN [\"/bin/true\", \"{n}\"]\n"));
    }
    fs::write(folder.join("Dockerfile"), text).unwrap();
}

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = 2000 + self.next() % 18_000;
        (0..length).map(|_| (self.next() >> 8) as u8).collect()
    }

    fn text(&mut self) -> String {
        const WORDS: [&str; 12] = [
            "let ", "a = ", "fn ", "value", "(x) ", "{\n", "}\n", "return ", "self.", "import ",
            "    ", "\n",
        ];
        // Many small ones, and some large.
        let length = 100 + self.next() % 6000 + (self.next() % 8 / 7) * (self.next() % 55_000);
        let mut text = String::with_capacity(length + 16);
        while text.len() < length {
            match self.next() % 16 {
                0 => text.push_str(&format!("{:x}", self.next() & 0xfff_ffff)),
                word => text.push_str(WORDS[word % 12]),
            }
        }
        text
    }
}
