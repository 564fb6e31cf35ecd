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
svg text{font-family:inherit}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.42rem 1rem .42rem 0;border-bottom:1px solid var(--grid);vertical-align:top}
thead th{color:var(--soft);font-weight:500;white-space:nowrap}
tbody th{font-weight:600;white-space:nowrap}
thead th:nth-child(n+2):not(:last-child),.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
details{margin-top:1rem}
summary{cursor:pointer;color:var(--soft)}
.settings{columns:330px;column-gap:1rem;margin-top:1rem}
.settings>div{background:var(--box);border-radius:8px;padding:.8rem 1rem;margin:0 0 1rem;break-inside:avoid}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .9rem;margin:0;font-size:.84rem}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
@media print{details{display:none}}
"""
