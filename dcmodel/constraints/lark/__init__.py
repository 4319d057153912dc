"""Grammars as trees: what never ends is found, and what is spelled out becomes terminals."""

from dcmodel.constraints.lark.prepare import PreparedGrammar, prepare_grammar

__all__ = ["PreparedGrammar", "prepare_grammar"]
