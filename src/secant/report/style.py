"""The look of the report, light and dark."""

STYLE = """
:root{--paper:#fff;--ink:#1b1f24;--soft:#59636e;--grid:#e4e7eb;--box:#f6f8fa;
--series-0:#0072b2;--series-1:#d55e00;--series-2:#008a64;--series-3:#b5658f;--series-4:#c98500;--series-5:#2f8fc7;--series-6:#1b1f24}
@media (prefers-color-scheme:dark){:root{--paper:#0f1318;--ink:#e6e9ed;--soft:#9aa4af;--grid:#2a313a;--box:#171c23;
--series-0:#4aa8e0;--series-1:#f07b2e;--series-2:#1dbf92;--series-3:#dd94bd;--series-4:#f0b030;--series-5:#8ccdf2;--series-6:#e6e9ed}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1240px;margin:0 auto;padding:2.2rem 1.4rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .5rem;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:2.4rem 0 .7rem}
h3{font-size:.92rem;margin:0 0 .4rem}
.lead{font-size:1.12rem;margin:0}
.note{color:var(--soft);margin:.25rem 0 0;max-width:72em}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,500px),1fr));gap:1.4rem 1.6rem;margin-top:1.8rem}
figure{margin:0}
svg{display:block;width:100%;height:auto;overflow:visible}
figure>svg{max-width:640px}
svg text{font-family:inherit}
.whole{white-space:nowrap}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.42rem 1rem .42rem 0;border-bottom:1px solid var(--grid);vertical-align:top}
thead th{color:var(--soft);font-weight:500;white-space:nowrap}
tbody th{font-weight:600;white-space:nowrap}
.number,thead .number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.range{color:var(--soft);white-space:nowrap;font-variant-numeric:tabular-nums}
.part{font-size:1rem;margin:1.6rem 0 .3rem}
.close{margin-top:.6rem}
figcaption{color:var(--soft);font-size:.92rem;margin:0 0 .3rem}
ul{padding-left:1.2rem;margin:.5rem 0;max-width:72em}
li{margin:.25rem 0;overflow-wrap:anywhere}
td{min-width:6.5rem}
td:last-child{min-width:11rem}
td.number,td.range{min-width:0}
details{margin-top:1rem}
summary{cursor:pointer;color:var(--soft)}
.settings{columns:330px;column-gap:1rem;margin-top:1rem}
.settings>div{background:var(--box);border-radius:8px;padding:.8rem 1rem;margin:0 0 1rem;break-inside:avoid}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .9rem;margin:0;font-size:.84rem}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
@media print{details{display:none}}
"""

INSPECTION_STYLE = """
.kicker{color:var(--soft);margin:0 0 .5rem;overflow-wrap:anywhere}
.verdict{font-size:clamp(1.45rem,1rem + 2vw,2.25rem);line-height:1.22;margin:0 0 1rem;max-width:27em;text-wrap:balance}
header .lead{max-width:60em}
pre{background:var(--box);border-radius:8px;padding:.85rem 1.1rem;margin:1.1rem 0;overflow-x:auto;width:fit-content;max-width:100%}
code{font:.9rem/1.6 ui-monospace,"SF Mono","Cascadia Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
h2{margin-top:3rem}
p{margin:.5rem 0;max-width:72em}
.missing{color:var(--soft);font-style:italic}
.cards{display:grid;grid-template-columns:repeat(6,1fr);gap:1rem}
.card{grid-column:span 2;background:var(--box);border-radius:10px;padding:1.1rem 1.2rem;min-width:0}
.card:nth-child(n+4){grid-column:span 3}
.card h3{font-size:1rem;font-weight:500;line-height:1.4;margin:0 0 .7rem;color:var(--soft)}
.card p{margin:.35rem 0}
.card dl{margin-top:.8rem}
.answer{display:inline-block;font-weight:600;border:1.5px solid;border-radius:99px;padding:.08rem .8rem .1rem .65rem;font-size:.92rem}
.answer.holds{color:var(--series-1)}
.answer.partly{color:var(--series-4);border-style:dashed}
.answer.falls{color:var(--series-2)}
.answer.open{color:var(--soft);border-style:dotted}
.figure span{font-size:1.7rem;font-weight:600;letter-spacing:-.01em;font-variant-numeric:tabular-nums}
.figure small{color:var(--soft);font-size:.9rem;display:inline-block}
.card .figure+.note{margin-top:-.3rem}
figure{margin:1.2rem 0}
figcaption{margin:.7rem 0 0;max-width:64em}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:1.4rem 2rem}
.panels h3{font-weight:600;margin-bottom:.5rem}
.beside{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:1rem 2.4rem;align-items:start}
.beside>div{min-width:0}
.beside .panels{grid-template-columns:minmax(0,400px)}
table{margin:.6rem 0}
td:last-child{min-width:9rem}
td,td.number:last-child,td.range:last-child,.beside td:last-child{min-width:0}
section>h3,.beside h3{margin:1.2rem 0 .5rem;font-size:1rem}
@media (max-width:1000px){.cards{grid-template-columns:repeat(2,1fr)}.card,.card:nth-child(n+4){grid-column:span 1}.card:nth-child(5){grid-column:span 2}}
@media (max-width:620px){.cards{grid-template-columns:1fr}.card,.card:nth-child(n+4),.card:nth-child(5){grid-column:auto}
tbody th{white-space:normal;min-width:6.5rem}td:last-child{min-width:13rem}th,td{padding-right:.8rem}}
"""
