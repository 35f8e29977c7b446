"""Graders must call right right, and wrong wrong."""

import fractions
import unittest

import graders


class GradersTest(unittest.TestCase):
    def test_pass_at_k(self):
        self.assertEqual(graders.pass_at_k(10, 0, 1), 0)
        self.assertEqual(graders.pass_at_k(10, 10, 1), 1)
        self.assertAlmostEqual(graders.pass_at_k(10, 3, 1), 0.3)
        # All pairs of five of which two are right: 1 - (3 choose 2) / (5 choose 2).
        self.assertAlmostEqual(graders.pass_at_k(5, 2, 2), 0.7)
        self.assertEqual(graders.pass_at_k(5, 2, 4), 1)
        for wrong in ((5, 6, 1), (5, -1, 1), (5, 2, 6), (5, 2, 0)):
            with self.assertRaises(ValueError):
                graders.pass_at_k(*wrong)

    def test_numbers(self):
        for answer, value in (("So she has 12 apples.", 12), ("3 + 4 = 7\n#### 7", 7), ("#### 1,234", 1234),
                              ("It costs $3.50", fractions.Fraction(7, 2)), ("-5", -5),
                              ("The rest is 7/8", fractions.Fraction(7, 8)),
                              ("We get \\boxed{42} of 100 tries", 42), ("about .5", fractions.Fraction(1, 2)),
                              ("20%", 20), ("12.0", 12), ("5 and then 6.", 6), ("#### 8 or 9", 8)):
            self.assertEqual(graders.last_number(answer), value, answer)
        for answer in ("", "none", "#### many", "twelve"):
            self.assertIsNone(graders.last_number(answer), answer)

    def test_same_number(self):
        self.assertTrue(graders.same_number("The total is 1,200.", "… #### 1200"))
        self.assertTrue(graders.same_number("18.00", "18"))
        for wrong in ("The total is 1,201.", "1200 of 12", "", "12", "-1200", "1200.5"):
            self.assertFalse(graders.same_number(wrong, "#### 1200"), wrong)
        with self.assertRaises(ValueError):
            graders.same_number("1", "no number")

    def test_latex(self):
        self.assertEqual(graders.last_boxed("\\boxed{1} then \\boxed{\\frac{1}{2}}."), "\\frac{1}{2}")
        self.assertIsNone(graders.last_boxed("\\boxed{1"))
        for answer in ("So \\boxed{\\dfrac{1}{2}}", "\\boxed{\\frac12}", "\\boxed{0.5}", "\\boxed{1/2}", "1/2"):
            self.assertTrue(graders.same_latex(answer, "thus \\boxed{\\frac{1}{2}}"), answer)
        for answer in ("\\boxed{\\frac{2}{1}}", "\\boxed{2}", "", "1/2 is wrong, it is 1/3", "\\boxed{-\\frac12}"):
            self.assertFalse(graders.same_latex(answer, "\\boxed{\\frac{1}{2}}"), answer)
        self.assertTrue(graders.same_latex("\\boxed{(3,\\ 4)}", "(3, 4)"))
        self.assertTrue(graders.same_latex("\\boxed{x^2 + 1}", "\\boxed{x^2+1}"))
        self.assertFalse(graders.same_latex("\\boxed{x^2-1}", "\\boxed{x^2+1}"))
        self.assertTrue(graders.same_latex("\\boxed{-\\frac{1}{2}}", "-0.5"))

    def test_choices(self):
        for answer, letter in (("B", "B"), ("(C)", "C"), ("B. Iron", "B"), ("The answer is (D).", "D"),
                               ("Answer: A", "A"), ("The answer is A. No: the answer is B.", "B"), ("**C**", "C"),
                               ("answer is **B**", "B"), ("the answer is b", "B")):
            self.assertEqual(graders.choice(answer, "ABCD"), letter, answer)
        for answer in ("", "A long way off", "Because iron rusts", "E", "The answer is iron"):
            self.assertIsNone(graders.choice(answer, "ABCD"), answer)

    def test_code(self):
        self.assertEqual(graders.code("Here:\n```python\ndef f():\n    return 1\n```\nDone."),
                         "def f():\n    return 1\n")
        self.assertEqual(graders.code("```py\nx\n```\n```python\nlonger = 1\n```"), "longer = 1\n")
        self.assertEqual(graders.code("```python\nunfinished = 1"), "unfinished = 1")
        self.assertEqual(graders.code("return 1"), "return 1")


if __name__ == "__main__":
    unittest.main()
