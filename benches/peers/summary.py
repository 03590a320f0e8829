"""From rounds to the table: medians, ratios with the least and the greatest round, and the aims."""

from statistics import median

OURS = ("ours", "ours-avx2")


def series(rounds, name):
    """ns per token and head of a subject, by round (None where it has none)."""
    return [r["records"].get(name, {}).get("ns_per_token_head") for r in rounds]


def spread(values):
    return {"median": median(values), "min": min(values), "max": max(values)}


def ratios(rounds, ours, peer):
    """Tokens per second, ours to the peer's, paired within each round."""
    pairs = zip(series(rounds, ours), series(rounds, peer))
    return [theirs / own for own, theirs in pairs if own and theirs]


def verdict(values, aim, valid, less_is_better=False):
    """Judged by the median; "noisy" when a round says otherwise; void rounds judge nothing."""
    if not valid:
        return "not judged"
    sign = -1 if less_is_better else 1
    met = sign * values["median"] >= sign * aim
    ends = [sign * values[end] >= sign * aim for end in ("min", "max")]
    return ("met" if met else "missed") + ("" if all(end == met for end in ends) else ", noisy")


def at_peak(round_, flops, isa=None):
    """ns per token and head that the FLOPs take at the round's peak; None where it was not measured."""
    peaks = round_["peak"]
    return flops / peaks.get(isa, max(peaks.values())) if peaks else None


def against_bound(flops, rounds):
    """Our time over that of the unavoidable FLOPs."""
    own = [(r["records"].get("ours"), r) for r in rounds]
    return [record["ns_per_token_head"] / at_peak(r, flops, record.get("isa"))
            for record, r in own if record and r["peak"]]


def limit(flops, rounds, ours, peer):
    """The ratio that we should have if the unavoidable FLOPs ran at the peak and nothing else took time."""
    isa = "avx2" if ours == "ours-avx2" else None
    found = [theirs / at_peak(r, flops, isa) for r, theirs in zip(rounds, series(rounds, peer)) if theirs and r["peak"]]
    return median(found) if found else None


def summarize(entry, rounds, subjects):
    """The summary of one problem, as it is written to result.json."""
    usable = [r for r in rounds if not r["void"]]
    result = {"problem": entry["problem"], "rounds": len(rounds), "void_rounds": len(rounds) - len(usable),
              "only_void_rounds": not usable, "peak_gflops": {}, "ns_per_token_head": {}, "cpu_share": {}, "ops": {},
              "unsupported": {}, "ratios": [], "bound": None}
    valid, usable = bool(usable), usable or rounds
    fields = dict(item.partition("=")[::2] for item in entry["problem"].split(","))
    flops = (entry["bound"] or 0) * int(fields.get("D", 0)) * int(fields.get("E", fields.get("D", 0)))
    for isa in {isa for r in usable for isa in r["peak"]}:
        result["peak_gflops"][isa] = spread([r["peak"][isa] for r in usable if isa in r["peak"]])
    for subject in subjects:
        values = [value for value in series(usable, subject.name) if value]
        if values:
            result["ns_per_token_head"][subject.name] = spread(values)
            ops = {r["records"][subject.name].get("op") or r["records"][subject.name].get("isa") or ""
                   for r in usable if subject.name in r["records"]}
            result["ops"][subject.name] = " / ".join(sorted(ops))
            shares = [r["records"].get(subject.name, {}).get("cpu_share") for r in usable]
            shares = [share for share in shares if share is not None]
            result["cpu_share"][subject.name] = median(shares) if shares else None
        if entry["problem"] in subject.unsupported:
            result["unsupported"][subject.name] = subject.unsupported[entry["problem"]]
    for ours, aims in zip(OURS, (entry["aims"], entry["avx2_aims"])):
        for subject in subjects:
            wanted = subject.name in aims or (ours == "ours" and subject.name not in OURS)
            found = ratios(usable, ours, subject.name) if wanted else []
            if found:
                row = {"ours": ours, "peer": subject.name, **spread(found), "aim": aims.get(subject.name)}
                row["verdict"] = verdict(row, row["aim"], valid) if row["aim"] else None
                row["limit"] = limit(flops, usable, ours, subject.name) if flops and valid else None
                result["ratios"].append(row)
    if flops and (found := against_bound(flops, usable)):
        row = {"flops": f"{entry['bound']}DE", **spread(found), "aim": entry["bound_aim"]}
        row["verdict"] = verdict(row, row["aim"], valid, less_is_better=True) if row["aim"] else None
        result["bound"] = row
    return result


def table(summary):
    """The lines that a person reads."""
    peaks = ", ".join(f"{isa} {values['median']:.0f}" for isa, values in sorted(summary["peak_gflops"].items()))
    lines = [summary["problem"], f"  {summary['rounds']} rounds, {summary['void_rounds']} void;"
                                 f" FMA peak, GFLOP/s: {peaks or 'not measured'}"]
    if summary["only_void_rounds"]:
        lines.append("  NO VALID ROUND: the machine was not steady; the figures below are from void rounds")
    lines.append(f"  {'':10} {'ns/token/head':>13} {'min-max':>15} {'CPU':>5}   what ran")
    for name, values in summary["ns_per_token_head"].items():
        span = f"{values['min']:.0f}-{values['max']:.0f}"
        share = summary["cpu_share"][name]
        share = "" if share is None else f"{share:.0%}"
        lines.append(f"  {name:10} {values['median']:13.0f} {span:>15} {share:>5}   {summary['ops'][name]}")
    lines += [f"  {name:10} {'-':>13} {'':>21}   {reason}" for name, reason in summary["unsupported"].items()]
    rows = [(f"{row['ours']} / {row['peer']}, tokens/s", row, ">=") for row in summary["ratios"]]
    if summary["bound"]:
        rows.append((f"ours, time over {summary['bound']['flops']} at peak", summary["bound"], "<="))
    for label, row, sign in rows:
        aim = f"   aim {sign} {row['aim']:g}: {row['verdict']}" if row["aim"] else ""
        if row.get("limit") and row["aim"] and row["limit"] < row["aim"]:
            aim += f" (out of reach: {row['limit']:.1f}x at this CPU's peak)"
        lines.append(f"  {label:34} {row['median']:6.2f}x  ({row['min']:.2f}-{row['max']:.2f}){aim}")
    return lines
